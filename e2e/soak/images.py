"""A model in an OCI image on a real node: `source.oci`, which kubelet and containerd mount as an image volume.

Debian's containerd is too old for that, so the node runs containerd 2, with images and snapshots of its own. Needs root
and a machine on which no node runs. buildah makes the images, as it would for a user, and they reach containerd without
a registry; the rest is the product as it is installed: the chart, the runtime's image, a real model.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cluster import Progress, images, node, paths, versions
from cluster.build import build
from cluster.containerd_v2 import containerd_v2
from cluster.mounts import mounted_below
from kit import chat, install
from kit.kube import NAME_LABEL, CommandError, Kube, wait_reachable, wait_until
from soak.goals import Goal
from soak.model_images import MODELS, deliver_models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster import Layout

Raw = dict[str, Any]

NAMESPACE: Final = "soak-images"
SECONDS: Final = 600.0
NAME: Final = f"containerd {versions.CONTAINERD}, model in an image"
QUESTION: Final = "What is the capital of France?"
MISSING: Final = "example.invalid/models/smollm2:1"


def run() -> Iterator[Goal]:
    """Builds containerd the first time, and yields a goal for each thing that should be."""
    progress = Progress()
    if any(node.running(paths()).values()):
        yield Goal(f"{NAME}: a node of its own", "no other one runs", "one does: make cluster-down first", met=False)
        return
    layout = replace(paths(), containerd=containerd_v2(paths(), progress))
    with _node(layout, progress) as kube:
        built = images(layout=layout, progress=progress)
        install.install_chart(kube, operator_image=built["operator"], runtime_image=built["runtime"])
        install.make_namespace(kube, NAMESPACE)
        deliver_models(layout, progress)
        yield from _serves(kube, "folder", {"image": MODELS["folder"].reference})
        yield from _mounted(kube, "folder")
        yield _deleted(kube, "folder", layout)
        yield from _serves(kube, "file", {"image": MODELS["file"].reference, "path": MODELS["file"].path})
        yield _deleted(kube, "file", layout)
        yield _told(kube, "missing", {"image": MISSING}, "ImagePullBackOff", MISSING)
        yield _told(kube, "path", {"image": MODELS["file"].reference, "path": "no/such"}, "ModelNotFound", "no/such")
        yield _told(kube, "locked", {"image": MODELS["locked"].reference}, "ModelAccessDenied", "config.json")


@contextmanager
def _node(layout: Layout, progress: Progress) -> Iterator[Kube]:
    """The project's node with that containerd; removed at the end."""
    try:
        node.up(layout, progress)
        build(["kubectl", "helm"], layout, progress)
        yield Kube(layout.kubeconfig, layout.bin)
    finally:
        node.down(layout, progress)


def _serves(kube: Kube, name: str, oci: Raw) -> Iterator[Goal]:
    began = time.monotonic()
    kube.apply(_server(name, oci))
    wait_until(f"{name} to be Ready", lambda: _ready(kube, name)["status"] == "True", seconds=SECONDS)
    yield Goal(f"{NAME}, {name}: Ready", "yes", f"after {time.monotonic() - began:.0f} s", met=True)
    url = kube.service_url(name, NAMESPACE)
    wait_reachable(url)
    answer = asyncio.run(_ask(url, name))
    yield Goal(f"{NAME}, {name}: {QUESTION}", "names Paris", answer, "Paris" in answer)


def _mounted(kube: Kube, name: str) -> Iterator[Goal]:
    """What the pod can do to the model, and whether anything can have fetched it."""
    (pod,) = kube.pods(name, NAMESPACE)
    refused = _refusal(kube, pod.metadata.name, "touch /models/mine")
    yield Goal(f"{NAME}: a pod writes into it", "read-only", refused, "Read-only file system" in refused)

    jobs = kube.kubectl("get", "jobs", "-n", NAMESPACE, "-o", "name").split()
    egress = (kube.get("networkpolicy", name, NAMESPACE) or {})["spec"].get("egress", [])
    containers = [each.name for each in (*(pod.spec.init_containers or ()), *pod.spec.containers)]
    found = f"{len(jobs)} jobs, {len(egress)} egress rules, containers {', '.join(containers)}"
    met = not jobs and not egress and containers == ["runtime"]
    yield Goal(f"{NAME}: what could fetch", "no job, no way out, one container", found, met)


def _deleted(kube: Kube, name: str, layout: Layout) -> Goal:
    """Nothing is left of it, not even the mounts of the image."""
    kube.kubectl("delete", "modelserver", name, "-n", NAMESPACE, "--wait=true", "--timeout=60s")

    def gone() -> bool:
        kinds = "deploy,rs,svc,pod,netpol,pdb"
        left = kube.kubectl("get", kinds, "-n", NAMESPACE, "-l", f"{NAME_LABEL}={name}", "-o", "name")
        return not left and not [path for path in mounted_below(layout.state) if "image-volumes" in path.parts]

    wait_until(f"nothing left of {name}", gone, seconds=SECONDS)
    return Goal(f"{NAME}, {name}: deleted", "no object, no mount", "nothing left", met=True)


def _told(kube: Kube, name: str, oci: Raw, reason: str, words: str) -> Goal:
    """Whether Ready says within two minutes why an image does not serve; then it is deleted."""
    began = time.monotonic()
    kube.apply(_server(name, oci))

    def told() -> bool:
        ready = _ready(kube, name)
        return (ready["status"], ready["reason"]) == ("False", reason) and words in ready["message"]

    met = True
    try:
        wait_until(reason, told, seconds=120)
    except TimeoutError:
        met = False
    ready, took = _ready(kube, name), time.monotonic() - began
    kube.kubectl("delete", "modelserver", name, "-n", NAMESPACE, "--wait=true", "--timeout=60s")
    said = f"after {took:.0f} s {ready['reason']}: {ready['message']}"
    return Goal(f"{NAME}, {name}", f"{reason} within 120 s, naming {words}", said, met)


def _refusal(kube: Kube, pod: str, command: str) -> str:
    try:
        kube.kubectl("exec", "-n", NAMESPACE, pod, "--", "sh", "-c", command)
    except CommandError as error:
        return str(error).splitlines()[0]
    return "it can"


async def _ask(url: str, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32, "temperature": 0}
    async with chat.one_connection_each() as session:
        return "".join([piece.text async for piece in chat.stream_chat(session, url, body)])


def _ready(kube: Kube, name: str) -> Raw:
    view = kube.modelserver(name, NAMESPACE)
    assert view is not None, f"{name} was applied"
    return view.condition("Ready")


def _server(name: str, oci: Raw) -> Raw:
    spec = {
        "model": {"source": {"oci": oci}, "maxModelLen": 1024},
        "runtime": {"maxNumSeqs": 2, "kvCache": {"size": "128Mi"}, "resources": {"requests": {"memory": "1Gi"}}},
        "replicas": 1,
        "drain": {"timeout": "30s"},
    }
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer", "metadata": metadata, "spec": spec}
