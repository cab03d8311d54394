"""`octavo-operator run`, `crd`, `render`, `replay`, and `activate` in the activators' pods."""

import argparse
import asyncio
import os
import sys
from typing import Final

from octavo_operator import rendering
from octavo_operator.activator.arguments import add_arguments as add_activator_arguments
from octavo_operator.core.crd import crd_yaml
from octavo_operator.core.errors import SettingsError
from octavo_operator.replay.arguments import add_arguments

_DEEPEST_JSON: Final = 50_000
"""The API server keeps objects of ten thousand levels, in a podTemplate of whoever may write one. Reading it takes a
few calls for each; Python's own limit of a thousand would end the operator for everybody, again and again.
"""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "crd":
        sys.stdout.write(crd_yaml())
        return 0
    if options.command == "render":
        return rendering.print_children(options)
    if options.command == "replay":
        return _replay(options)
    if options.command == "activate":
        return _activate(options)
    return _run(options.kubeconfig)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="octavo-operator", description="Octavo's Kubernetes operator.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="watch ModelServers and serve them, until SIGTERM")
    run.add_argument("--kubeconfig", help="default: $KUBECONFIG, or else the pod's service account")
    commands.add_parser("crd", help="print the CustomResourceDefinition")
    rendering.add_arguments(commands.add_parser("render", help="print the children of ModelServers, without a cluster"))
    add_activator_arguments(commands.add_parser("activate", help="hold requests until a replica serves, until SIGTERM"))
    add_arguments(commands.add_parser("replay", help="play a trace against an autoscaling policy, in simulated time"))
    return parser


def _replay(options: argparse.Namespace) -> int:
    try:
        from octavo_operator.replay.command import replay  # noqa: PLC0415  needs the runtime
    except ModuleNotFoundError as error:
        sys.stderr.write(f"octavo-operator: {error}: replay needs the runtime, pip install 'octavo-operator[replay]'\n")
        return 64
    try:
        sys.stdout.write(replay(options))
    except SettingsError as error:
        sys.stderr.write(f"octavo-operator: {error}\n")
        return 64
    return 0


def _activate(options: argparse.Namespace) -> int:
    from octavo_operator.activator.command import activate  # noqa: PLC0415  aiohttp takes half a second
    from octavo_operator.logs import configure_logging  # noqa: PLC0415

    configure_logging(os.environ.get("OCTAVO_LOG_LEVEL", "INFO").upper())
    asyncio.run(activate(options))
    return 0


def _run(kubeconfig: str | None) -> int:
    # Imported here: kopf and the Kubernetes client take a second and 60 MB that `crd` does not need.
    from octavo_operator.app import serve  # noqa: PLC0415
    from octavo_operator.logs import configure_logging  # noqa: PLC0415
    from octavo_operator.settings import read_settings  # noqa: PLC0415

    sys.setrecursionlimit(_DEEPEST_JSON)
    try:
        settings = read_settings(os.environ, kubeconfig)
        configure_logging(settings.log_level)
        asyncio.run(serve(settings))
    except SettingsError as error:
        sys.stderr.write(f"octavo-operator: {error}\n")
        return 64
    return 0


if __name__ == "__main__":
    sys.exit(main())
