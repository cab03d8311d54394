"""The arguments of `octavo-operator activate`, as core/activator.py renders them."""

import argparse

from octavo_operator.core import names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds them to a parser."""
    parser.add_argument("--upstream", required=True, metavar="URL", help="Service that leads to the replicas alone")
    parser.add_argument("--model", required=True, help="name that clients ask for")
    parser.add_argument("--max-held", type=int, default=100, help="requests held at the same time (default: 100)")
    parser.add_argument(
        "--share", type=int, default=64, help="held requests that go at once when a replica has come (default: 64)"
    )
    parser.add_argument("--hold-timeout", type=float, default=300, help="seconds that one is held (default: 300)")
    parser.add_argument("--drain-timeout", type=float, default=420, help="seconds after SIGTERM (default: 420)")
    parser.add_argument("--host", metavar="ADDRESS", help="to listen on (default: all)")
    parser.add_argument("--port", type=int, default=names.PORT, help=f"for clients (default: {names.PORT})")
    parser.add_argument(
        "--control-port", type=int, default=names.CONTROL_PORT, help=f"for the operator (default: {names.CONTROL_PORT})"
    )
