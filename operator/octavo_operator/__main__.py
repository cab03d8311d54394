"""`octavo-operator run` and `octavo-operator crd`."""

import argparse
import asyncio
import os
import sys

from octavo_operator.core.crd import crd_yaml
from octavo_operator.core.errors import SettingsError


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "crd":
        sys.stdout.write(crd_yaml())
        return 0
    return _run(options.kubeconfig)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="octavo-operator", description="Octavo's Kubernetes operator.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="watch ModelServers and serve them, until SIGTERM")
    run.add_argument("--kubeconfig", help="default: $KUBECONFIG, or else the pod's service account")
    commands.add_parser("crd", help="print the CustomResourceDefinition")
    return parser


def _run(kubeconfig: str | None) -> int:
    # Imported here: kopf and the Kubernetes client take a second and 60 MB that `crd` does not need.
    from octavo_operator.app import serve  # noqa: PLC0415
    from octavo_operator.logs import configure_logging  # noqa: PLC0415
    from octavo_operator.settings import read_settings  # noqa: PLC0415

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
