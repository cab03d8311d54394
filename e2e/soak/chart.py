"""The chart without a node: its objects in the API server, and the operator as its Deployment would start it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Final

import yaml

from cluster import tool
from soak.plane import kubectl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cluster import ControlPlane
    from soak.plane import Raw

NAMESPACE: Final = "octavo-system"
IMAGES: Final = ("image=operator:1", "runtime.defaultImage=example.invalid/runtime:1")


def rendered(chart: Path, values: Iterable[str] = ()) -> list[Raw]:
    """What helm makes of the chart in a folder."""
    settings = [f"--set={value}" for value in (*IMAGES, *values)]
    command = [str(tool("helm")), "template", "octavo", str(chart), f"--namespace={NAMESPACE}", *settings]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def install(plane: ControlPlane, chart: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Installs or upgrades the chart, but for the Deployment: nothing runs its pods. Returns what its process would
    have: a kubeconfig of its ServiceAccount, and its environment.
    """
    manifests = rendered(chart)
    (deployment,) = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    _apply(plane, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    _apply(plane, [manifest for manifest in manifests if manifest["kind"] != "Deployment"])
    kubectl(plane, "wait", "--for=condition=Established", "crd/modelservers.octavo.dev", "--timeout=30s")
    pod = deployment["spec"]["template"]["spec"]
    variables = {item["name"]: item["value"] for item in pod["containers"][0]["env"] if "value" in item}
    return _kubeconfig(plane, pod["serviceAccountName"], folder), variables | {"POD_NAMESPACE": NAMESPACE}


def _apply(plane: ControlPlane, manifests: list[Raw]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    kubectl(plane, "apply", "--server-side", "--force-conflicts", f"--namespace={NAMESPACE}", "--filename=-", text=text)


def _kubeconfig(plane: ControlPlane, account: str, folder: Path) -> Path:
    token = kubectl(plane, "create", "token", account, f"--namespace={NAMESPACE}", "--duration=2h").strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    folder.mkdir(exist_ok=True)
    path = folder / f"{account}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
