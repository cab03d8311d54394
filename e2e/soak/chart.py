"""A chart without a node: its objects in the API server, and the operator as its Deployment would start it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kit.chart import NAMESPACE, account_kubeconfig, rendered
from soak.plane import kubectl

if TYPE_CHECKING:
    from pathlib import Path

    from cluster import ControlPlane
    from soak.plane import Raw


def install(plane: ControlPlane, chart: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Installs or upgrades the chart, but for the Deployment: nothing runs its pods. Returns what its process would
    have: a kubeconfig of its ServiceAccount, and its environment.
    """
    manifests = rendered(chart=chart)
    (deployment,) = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    _apply(plane, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    _apply(plane, [manifest for manifest in manifests if manifest["kind"] != "Deployment"])
    kubectl(plane, "wait", "--for=condition=Established", "crd/modelservers.octavo.dev", "--timeout=30s")
    pod = deployment["spec"]["template"]["spec"]
    variables = {item["name"]: item["value"] for item in pod["containers"][0]["env"] if "value" in item}
    return account_kubeconfig(plane, pod["serviceAccountName"], folder), variables | {"POD_NAMESPACE": NAMESPACE}


def _apply(plane: ControlPlane, manifests: list[Raw]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    kubectl(plane, "apply", "--server-side", "--force-conflicts", f"--namespace={NAMESPACE}", "--filename=-", text=text)
