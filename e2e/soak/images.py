"""A model in an OCI image on a real node: `source.oci`, which kubelet and containerd mount as an image volume.

Debian's containerd is too old for that, so the node runs containerd 2, with images and snapshots of its own. Needs root
and a machine on which no node runs. buildah makes the images, as it would for a user; they are given to containerd, or
pulled from a registry of a page (`registry.py`). The rest is the product as it is installed: the chart, the runtime's
image, a real model.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cluster import Progress, images, node, paths, versions
from cluster.build import build
from cluster.containerd_v2 import containerd_v2
from cluster.mounts import mounted_below
from cluster.node_config import NODE_NAME
from kit import chat, install, prepare
from kit.kube import NAME_LABEL, CommandError, Kube, wait_reachable, wait_until
from soak.goals import Goal
from soak.model_images import MODELS, forget, give, model_images
from soak.registry import pull_secret, registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster import Layout

Raw = dict[str, Any]

NAMESPACE: Final = "soak-images"
SERVER: Final = "chat"
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
    with ExitStack() as stack:
        kube = stack.enter_context(_node(layout, progress))
        folders = stack.enter_context(model_images(layout, progress))
        built = images(layout=layout, progress=progress)
        install.install_chart(kube, operator_image=built["operator"], runtime_image=built["runtime"])
        stack.enter_context(prepare.namespace(kube, NAMESPACE))
        forget(layout, "/models/")  # what a run that was ended has left
        for name in ("folder", "locked"):
            give(layout, folders[name], _given(name))
        pulled = stack.enter_context(registry(folders["file"], "models/file", layout.registries))
        kube.apply(pull_secret(pulled, "registry", NAMESPACE))
        yield from _goals(kube, layout, pulled)
        forget(layout, "/models/")


def _goals(kube: Kube, layout: Layout, pulled: str) -> Iterator[Goal]:
    runtime = kube.core.read_node(NODE_NAME).status.node_info.container_runtime_version
    yield Goal(
        f"{NAME}: what runs the pods",
        "that one",
        runtime,
        runtime == f"containerd://{versions.CONTAINERD.removeprefix('v')}",
    )

    yield from _serves(kube, "a Hugging Face folder, given to the node", {"image": _given("folder")})
    yield from _mounted(kube, layout)
    file = {"image": pulled, "path": MODELS["file"].path}
    yield _told(kube, "pulled without its Secret", file, "ImagePullBackOff", "authorization")
    secret = {"pullPolicy": "Always", "pullSecretRef": {"name": "registry"}}
    yield from _serves(kube, "changed to a GGUF file in a folder, pulled with a Secret", file | secret)
    yield _deleted(kube, layout)
    yield _told(kube, "of no registry", {"image": MISSING}, "ImagePullBackOff", MISSING)
    absent = {"image": _given("folder"), "path": "no/such"}
    yield _told(kube, "without the path", absent, "ModelNotFound", "/models/no/such")
    yield _told(kube, "that is its owner's alone", {"image": _given("locked")}, "ModelAccessDenied", "config.json")


def _given(name: str) -> str:
    """Of an image that is never pulled: its registry does not exist."""
    return f"octavo.local/models/{name}:1"


@contextmanager
def _node(layout: Layout, progress: Progress) -> Iterator[Kube]:
    """The project's node with that containerd; removed at the end."""
    try:
        node.up(layout, progress)
        build(["kubectl", "helm"], layout, progress)
        yield Kube(layout.kubeconfig, layout.bin)
    finally:
        node.down(layout, progress)


def _serves(kube: Kube, what: str, oci: Raw) -> Iterator[Goal]:
    """Whether one pod with that image, and no other one, serves its model."""
    began = time.monotonic()
    kube.apply(_server(SERVER, oci))
    wait_until(f"{what}: Ready", lambda: _served_from(kube) == [oci["image"]], seconds=SECONDS)
    yield Goal(f"{NAME}, {what}: Ready", "yes", f"after {time.monotonic() - began:.0f} s", met=True)
    url = kube.service_url(SERVER, NAMESPACE)
    wait_reachable(url)
    answer = asyncio.run(_ask(url))
    yield Goal(f"{NAME}, {what}: {QUESTION}", "names Paris", answer, "Paris" in answer)


def _mounted(kube: Kube, layout: Layout) -> Iterator[Goal]:
    """What the pod can do to the model, and whether anything can have fetched it."""
    (pod,) = kube.pods(SERVER, NAMESPACE)
    refused = _refusal(kube, pod.metadata.name, "touch /models/mine")
    met = "Read-only file system" in refused and len(_mounts(layout)) == 1
    yield Goal(f"{NAME}: a pod writes into the one mount", "read-only", refused, met)

    jobs = kube.kubectl("get", "jobs", "-n", NAMESPACE, "-o", "name").split()
    policy = (kube.get("networkpolicy", SERVER, NAMESPACE) or {}).get("spec", {})
    ways = len(policy.get("egress", [])) if "Egress" in policy.get("policyTypes", []) else "all"
    containers = [each.name for each in (*(pod.spec.init_containers or ()), *pod.spec.containers)]
    found = f"{len(jobs)} jobs, {ways} ways out, containers: {', '.join(containers)}"
    met = (jobs, ways, containers) == ([], 0, ["runtime"])
    yield Goal(f"{NAME}: what could fetch", "no job, no way out, one container", found, met)


def _deleted(kube: Kube, layout: Layout) -> Goal:
    """Nothing is left of it, not even the mounts of its images."""
    _delete(kube, SERVER)

    def gone() -> bool:
        kinds = "deploy,rs,svc,pod,netpol,pdb"
        left = kube.kubectl("get", kinds, "-n", NAMESPACE, "-l", f"{NAME_LABEL}={SERVER}", "-o", "name")
        return not left and not _mounts(layout)

    wait_until(f"nothing left of {SERVER}", gone, seconds=SECONDS)
    return Goal(f"{NAME}: deleted", "no object, no mount", "nothing left", met=True)


def _told(kube: Kube, what: str, oci: Raw, reason: str, words: str) -> Goal:
    """Whether Ready says within two minutes why an image does not serve; then it is deleted."""
    began, name = time.monotonic(), "broken"
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
    _delete(kube, name)
    said = f"after {took:.0f} s {ready['reason']}: {ready['message']}"
    return Goal(f"{NAME}, {what}", f"{reason} within 120 s, naming {words}", said, met)


def _delete(kube: Kube, name: str) -> None:
    kube.kubectl("delete", "modelserver", name, "-n", NAMESPACE, "--wait=true", "--timeout=60s")
    wait_until(f"no pod of {name}", lambda: not kube.pods(name, NAMESPACE), seconds=SECONDS)


def _served_from(kube: Kube) -> list[str]:
    """The images of the models that pods have, once the ModelServer is Ready as it is wanted now."""
    view = kube.modelserver(SERVER, NAMESPACE)
    if view is None or not view.ready:
        return []
    volumes = [volume for pod in kube.pods(SERVER, NAMESPACE) for volume in pod.spec.volumes]
    return [volume.image.reference for volume in volumes if volume.image]


def _mounts(layout: Layout) -> list[Path]:
    """Of images, on the node."""
    return [path for path in mounted_below(layout.state) if "image-volumes" in path.parts]


def _refusal(kube: Kube, pod: str, command: str) -> str:
    try:
        kube.kubectl("exec", "-n", NAMESPACE, pod, "--", "sh", "-c", command)
    except CommandError as error:
        return str(error).splitlines()[0]
    return "it can"


async def _ask(url: str) -> str:
    body = {"model": SERVER, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32, "temperature": 0}
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
