"""The chart without a node: what helm makes of it, and the rights of an account that it makes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from cluster import tool

if TYPE_CHECKING:
    from cluster import ControlPlane

CHART: Final = Path(__file__).parents[2] / "charts/octavo"
NAMESPACE: Final = "octavo-system"
_IMAGES: Final = ("--set=image=operator:1", "--set=runtime.defaultImage=runtime:1")


def rendered(*options: str, chart: Path = CHART, release: str = "octavo") -> list[dict[str, Any]]:
    """The objects of the chart in a folder, with these options of helm."""
    command = [str(tool("helm")), "template", release, str(chart), f"--namespace={NAMESPACE}", *_IMAGES, *options]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def account_kubeconfig(plane: ControlPlane, account: str, folder: Path) -> Path:
    """A kubeconfig, in that folder, with the rights of a ServiceAccount of the chart's namespace."""
    kubectl = [str(plane.kubectl), f"--kubeconfig={plane.kubeconfig}", f"--namespace={NAMESPACE}"]
    command = [*kubectl, "create", "token", account, "--duration=2h"]
    token = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    folder.mkdir(exist_ok=True)
    path = folder / f"{account}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
