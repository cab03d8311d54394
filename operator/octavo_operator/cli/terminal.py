"""Asks kubectl, builds the view, prints it: in colours and as wide as it is on a terminal, plain and wide elsewhere."""

import argparse
import os
import sys
from typing import Final

from rich.console import Console, RenderableType

from octavo_operator.cli.detail import detail
from octavo_operator.cli.kubectl import MODEL_SERVERS, Kubectl, KubectlError
from octavo_operator.cli.listing import listing
from octavo_operator.cli.why import why
from octavo_operator.core import names

PLAIN_WIDTH: Final = 200
"""Where the output is no terminal: rich would cut at 80."""


def show(options: argparse.Namespace, now: float) -> int:
    """Print what was asked for; returns the exit status."""
    try:
        view = _view(options, now)
    except (KubectlError, ValueError) as error:
        sys.stderr.write(f"kubectl octavo: {error}\n")
        return 1
    _console().print(view)
    return 0


def _view(options: argparse.Namespace, now: float) -> RenderableType:
    kubectl = _kubectl(options)
    if options.command == "why":
        return why(kubectl.get(MODEL_SERVERS, options.name), now)
    if options.name is None:
        servers = kubectl.items(MODEL_SERVERS)
        return listing(servers, now, namespaces=options.all_namespaces) if servers else f"No {names.KIND} found."
    if options.all_namespaces:
        raise ValueError(f"--all-namespaces lists all; for {options.name} name its --namespace")
    children = kubectl.items("deployments.apps,pods", f"--selector={names.LABEL_MODEL_SERVER}={options.name}")
    about = f"regarding.kind={names.KIND},regarding.name={options.name}"
    events = kubectl.items("events.events.k8s.io", f"--field-selector={about}")
    return detail(kubectl.get(MODEL_SERVERS, options.name), children, events, now)


def _kubectl(options: argparse.Namespace) -> Kubectl:
    flags = {"--context": options.context, "--kubeconfig": options.kubeconfig}
    connection = tuple(f"{flag}={value}" for flag, value in flags.items() if value)
    if getattr(options, "all_namespaces", False):
        return Kubectl(connection, ("--all-namespaces",))
    return Kubectl(connection, (f"--namespace={options.namespace}",) if options.namespace else ())


def _console() -> Console:
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=int(os.environ.get("COLUMNS", PLAIN_WIDTH)))
