"""`python -m cluster COMMAND`; the package's docstring says what each does."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from cluster import modes, status
from cluster.build import CONTROL_PLANE, PRODUCTS, build
from cluster.control_plane import ControlPlane
from cluster.debian import etcd_binary, prometheus_binaries
from cluster.errors import ClusterError
from cluster.images import RECIPES
from cluster.layout import paths
from cluster.progress import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cluster", description="A Kubernetes cluster for demo, tests and development."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    each = commands.add_parser("up", help="bring the cluster up, or find it running")
    each.add_argument("--context", help="use this context of your own kubeconfig instead")
    each.set_defaults(run=_up)

    each = commands.add_parser("down", help="remove the cluster; built binaries and images stay in the cache")
    each.add_argument("--purge", action="store_true", help="remove those too")
    each.set_defaults(run=lambda options: modes.down(purge=options.purge))

    each = commands.add_parser("images", help="build the images and give them to the cluster")
    each.add_argument("names", nargs="*", metavar="IMAGE", help=" or ".join(RECIPES))
    each.add_argument("--base", help="a base image with Python 3.11 that buildah has, instead of a locally made one")
    each.set_defaults(run=_images)

    each = commands.add_parser("control-plane", help="etcd, API server and controllers without a node; Ctrl-C ends it")
    each.set_defaults(run=_control_plane)

    each = commands.add_parser("build", help="only build binaries")
    each.add_argument("names", nargs="*", metavar="BINARY", help=", ".join(PRODUCTS))
    each.add_argument("--control-plane", action="store_true", help="what the control-plane mode needs")
    each.set_defaults(run=_build)

    commands.add_parser("status", help="what runs").set_defaults(run=lambda _: print(status.report(paths())))
    commands.add_parser("env", help="shell lines that set KUBECONFIG and PATH").set_defaults(
        run=lambda _: print(status.environment(paths()))
    )
    return parser


def _up(options: argparse.Namespace) -> None:
    cluster = modes.up(options.context)
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def _images(options: argparse.Namespace) -> None:
    for reference in modes.images(options.names or RECIPES, base=options.base).values():
        print(reference)


def _control_plane(_: argparse.Namespace) -> None:
    with ControlPlane.start() as plane:
        print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
        plane.wait()
        raise ClusterError("a program of the control plane has ended: start it again")


def _build(options: argparse.Namespace) -> None:
    layout, progress = paths(), Progress()
    names = list(options.names)
    for name in names:
        if name not in PRODUCTS:
            raise ClusterError(f"no binary {name!r}: choose from {', '.join(PRODUCTS)}")
    if options.control_plane:
        etcd_binary(layout, progress)
        prometheus_binaries(layout, progress)
        names += CONTROL_PLANE
    build(names or PRODUCTS, layout, progress)


def _interrupt(_: int, __: FrameType | None) -> None:
    """SIGTERM ends us as Ctrl-C does: steps are cleaned up."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
