"""The arguments of `kubectl octavo`, and who does what."""

import argparse
import sys
import time

from octavo_operator import rendering
from octavo_operator.core import names


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "render":
        return rendering.print_children(options)
    try:
        from octavo_operator.cli.terminal import show  # noqa: PLC0415  rich is an extra
    except ModuleNotFoundError as error:
        sys.stderr.write(f"kubectl octavo: {error}: pip install 'octavo-operator[cli]'\n")
        return 64
    return show(options, time.time())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kubectl octavo", description="What the ModelServers of a cluster do.")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="all ModelServers of a namespace, or one with replicas and events")
    status.add_argument("name", metavar="NAME", nargs="?", help=f"one {names.KIND}, in detail")
    status.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
    why = commands.add_parser("why", help="the last scaling decision, with its inputs and a chart")
    why.add_argument("name", metavar="NAME", help=f"the {names.KIND}")
    for command in (status, why):
        command.add_argument("-n", "--namespace", help="default: the context's")
        command.add_argument("--context", help="default: kubectl's current one")
        command.add_argument("--kubeconfig", help="default: kubectl's")
    rendering.add_arguments(commands.add_parser("render", help="print the children of ModelServers, without a cluster"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
