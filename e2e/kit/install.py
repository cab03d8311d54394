"""What a user does once per cluster: namespaces under the restricted profile, the chart, and a model on a volume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.kube import wait_until

if TYPE_CHECKING:
    from kit.kube import Kube

ROOT = Path(__file__).parents[2]
SYSTEM_NAMESPACE = "octavo-system"
RELEASE = "octavo"
CLAIM = "models"
NOBODY = 65532  # the user that Octavo's images run as


def make_namespace(kube: Kube, name: str) -> None:
    """A namespace in which the API server enforces the restricted pod security profile."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "app.kubernetes.io/part-of": "octavo-demo"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


def install_chart(kube: Kube, *, operator_image: str, runtime_image: str, set_values: tuple[str, ...] = ()) -> None:
    """Install or upgrade the operator and wait until it is up. Images are references with a tag."""
    make_namespace(kube, SYSTEM_NAMESPACE)
    values = (f"image={operator_image}", f"runtime.defaultImage={runtime_image}", *set_values)
    settings = [part for value in values for part in ("--set", value)]
    kube.helm(
        "upgrade", "--install", RELEASE, str(ROOT / "charts" / "octavo"),
        "--namespace", SYSTEM_NAMESPACE, *settings, "--wait", "--timeout", "3m",
    )  # fmt: skip


def put_model(kube: Kube, model: Path, *, namespace: str, folder: Path, image: str) -> None:
    """Put the file `model` on a claim named `models` in `namespace`.

    On a node that is this machine the claim is bound to `folder`; elsewhere it comes from the cluster's default
    storage class, and a pod of `image`, the runtime's, takes the file in.
    """
    if kube.on_this_machine:
        _bind_folder(kube, model, namespace, folder)
    else:
        _send_through_pod(kube, model, namespace, image)


def _bind_folder(kube: Kube, model: Path, namespace: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    target = folder / model.name
    if not target.exists() or target.stat().st_size != model.stat().st_size:
        partial = target.with_suffix(".partial")
        shutil.copyfile(model, partial)
        partial.chmod(0o644)
        partial.rename(target)
    volume = f"{namespace}-{CLAIM}"
    spec = {
        "capacity": {"storage": "10Gi"},
        "accessModes": ["ReadOnlyMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "hostPath": {"path": str(folder), "type": "Directory"},
        "claimRef": {"namespace": namespace, "name": CLAIM},
    }
    _forget_released_volume(kube, volume)
    kube.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": spec},
        _claim(namespace, {"storageClassName": "", "volumeName": volume, "accessModes": ["ReadOnlyMany"]}),
    )


def _forget_released_volume(kube: Kube, volume: str) -> None:
    """A volume whose claim is gone stays bound to that claim's uid for ever; only a new one can be claimed."""
    phase = kube.kubectl("get", "pv", volume, "--ignore-not-found", "-o", "jsonpath={.status.phase}")
    if phase == "Released":
        kube.kubectl("delete", "pv", volume, "--wait=true")


def _send_through_pod(kube: Kube, model: Path, namespace: str, image: str) -> None:
    container = {
        "name": "loader",
        "image": image,
        "command": ["sleep", "3600"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "fsGroup": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": CLAIM}}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "model-loader", "namespace": namespace},
        "spec": spec,
    }
    kube.apply(_claim(namespace, {"accessModes": ["ReadWriteOnce"]}), pod)
    kube.kubectl("wait", "pod/model-loader", "-n", namespace, "--for=condition=Ready", "--timeout=180s")
    kube.kubectl("cp", str(model), f"{namespace}/model-loader:/models/{model.name}")
    kube.kubectl("delete", "pod", "model-loader", "-n", namespace, "--grace-period=1")


def _claim(namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    spec = {"resources": {"requests": {"storage": "10Gi"}}} | spec
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": namespace},
        "spec": spec,
    }


def wait_gone(kube: Kube, kind: str, name: str, namespace: str, *, seconds: float) -> None:
    wait_until(f"{kind}/{name} to be gone", lambda: kube.get(kind, name, namespace) is None, seconds=seconds)
