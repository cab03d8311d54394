"""Asks kubectl, builds the view, prints it: in colours and as wide as it is on a terminal, plain and wide elsewhere."""

import argparse
import os
import sys
from typing import Any, Final

from rich.console import Console, RenderableType

from octavo_operator.cli.detail import detail
from octavo_operator.cli.kubectl import LEADER_WORKER_SETS, MODEL_SERVERS, Kubectl, KubectlError
from octavo_operator.cli.listing import listing
from octavo_operator.cli.why import why
from octavo_operator.cli.words import condition, part
from octavo_operator.core import names
from octavo_operator.core.names import Condition, Reason

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
    server = kubectl.get(MODEL_SERVERS, options.name)
    children = kubectl.items(*_children(server, options.name))
    about = f"regarding.kind={names.KIND},regarding.name={options.name}"
    events = kubectl.items("events.events.k8s.io", f"--field-selector={about}")
    return detail(server, children, [event for event in events if _is_of(server, event)], now)


def _is_of(server: dict[str, Any], event: dict[str, Any]) -> bool:
    """And not of one that had its name before."""
    return part(event, "regarding").get("uid") in (None, part(server, "metadata").get("uid"))


def _children(server: dict[str, Any], name: str) -> tuple[str, str]:
    """What makes the replicas and their pods. kubectl fails for a kind that the cluster does not have."""
    if part(part(server, "spec"), "accelerator").get("nodes", 1) == 1:
        return "deployments.apps,pods", f"--selector={names.LABEL_MODEL_SERVER}={name}"
    lacks = condition(server, Condition.READY).get("reason") == Reason.KIND_MISSING
    labels = (*names.selector(name).values(), *names.worker_selector(name).values())
    return (
        "deployments.apps,pods" if lacks else f"{LEADER_WORKER_SETS},pods",
        f"--selector={names.LABEL_MODEL_SERVER} in ({','.join(labels)})",
    )


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
