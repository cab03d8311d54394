"""A thin hold on one cluster: kubectl and helm as a user runs them, and reads that are polled through the client."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from kubernetes import client, config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
MODELSERVERS = {"group": "octavo.dev", "version": "v1alpha1", "plural": "modelservers"}
NAME_LABEL = "octavo.dev/modelserver"


class CommandError(Exception):
    """kubectl or helm said no; the message is what it said."""


def wait_until(what: str, look: Callable[[], T | None], *, seconds: float, every: float = 0.5) -> T:
    """Poll `look` until it returns something true, and return that; a TimeoutError says what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(every)


def wait_reachable(url: str) -> None:
    """Wait until a Service leads to a ready pod: kube-proxy learns of it up to some seconds after the pod is ready."""

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=30) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until(f"{url} to answer", answers, seconds=120, every=0.2)


def set_resource(kube: Kube, resource: str, number: int) -> None:
    """Gives the only node so many of a made-up resource: scheduler and kubelet count it like a device plugin's."""
    (node,) = kube.core.list_node().items
    name, path = node.metadata.name, resource.replace("/", "~1")
    patch = [
        {"op": "add", "path": f"/status/{kind}/{path}", "value": str(number)} for kind in ("capacity", "allocatable")
    ]
    kube.kubectl("patch", "node", name, "--subresource=status", "--type=json", f"--patch={json.dumps(patch)}")

    def counted() -> bool:
        status = kube.core.read_node(name).status
        return bool(status.allocatable.get(resource) == str(number))

    wait_until(f"{number} x {resource} on the node", counted, seconds=180)


@dataclass(frozen=True)
class Kube:
    """One cluster: the current context of a kubeconfig."""

    kubeconfig: Path
    bin_dir: Path  # where kubectl and helm are
    on_this_machine: bool = True  # the node is this machine, so Service addresses can be reached from here

    # --- as a user types it ----------------------------------------------------------------------------------------

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return self._run("kubectl", *args, stdin=stdin)

    def helm(self, *args: str) -> str:
        return self._run("helm", *args)

    def apply(self, *manifests: dict[str, Any]) -> str:
        return self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def _run(self, tool: str, *args: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [self.bin_dir / tool, *args],
            input=stdin,
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CommandError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    # --- reads ----------------------------------------------------------------------------------------------------

    @cached_property
    def _api(self) -> client.ApiClient:
        return config.new_client_from_config(config_file=str(self.kubeconfig))

    @cached_property
    def core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self._api)

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        """One object by kubectl's name for its kind, or None."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, "-n", namespace, "-o", "json"))
        return next((item for item in found["items"] if item["metadata"]["name"] == name), None)

    def modelserver(self, name: str, namespace: str) -> ModelServerView | None:
        try:
            found = client.CustomObjectsApi(self._api).get_namespaced_custom_object(
                **MODELSERVERS, namespace=namespace, name=name
            )
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise
        return ModelServerView(found)

    def pods(self, name: str, namespace: str) -> list[client.V1Pod]:
        return list(self.core.list_namespaced_pod(namespace, label_selector=f"{NAME_LABEL}={name}").items)

    def service_url(self, name: str, namespace: str) -> str:
        service = self.core.read_namespaced_service(name, namespace)
        return f"http://{service.spec.cluster_ip}:{service.spec.ports[0].port}"


@dataclass(frozen=True)
class ModelServerView:
    """A ModelServer's status in words that tests and the demo use."""

    raw: dict[str, Any]

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.raw.get("status") or {})

    @property
    def observed(self) -> bool:
        return bool(self.status.get("observedGeneration") == self.raw["metadata"]["generation"])

    def condition(self, kind: str) -> dict[str, Any]:
        """The condition, or an Unknown one before it was written."""
        found = (c for c in self.status.get("conditions", []) if c["type"] == kind)
        return next(found, {"type": kind, "status": "Unknown", "reason": "NotWritten", "message": ""})

    @property
    def ready(self) -> bool:
        return self.observed and self.condition("Ready")["status"] == "True"

    @property
    def ready_replicas(self) -> int:
        return int(self.status.get("readyReplicas", 0))

    @property
    def desired_replicas(self) -> int:
        return int(self.status.get("desiredReplicas", 0))

    @property
    def load(self) -> dict[str, Any]:
        return dict(self.status.get("load") or {})

    @property
    def last_decision(self) -> dict[str, Any]:
        return dict((self.status.get("scaling") or {}).get("lastDecision") or {})
