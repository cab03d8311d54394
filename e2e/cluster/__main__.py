"""`python -m cluster COMMAND`; see the package's docstring."""

import argparse
import sys

from cluster import node
from cluster.control_plane import ControlPlane
from cluster.errors import ClusterError
from cluster.layout import paths
from cluster.progress import Progress


def main() -> int:
    parser = argparse.ArgumentParser(prog="cluster")
    parser.add_argument("command")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    progress = Progress()
    try:
        if options.command == "control-plane":
            with ControlPlane.start(progress=progress) as plane:
                print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
                plane.wait()
        elif options.command == "up":
            node.up(paths(), progress)
        elif options.command == "down":
            node.down(paths(), progress)
        elif options.command == "images":
            from cluster.images import images
            images(options.names or ["operator","runtime"], layout=paths(), progress=progress)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
