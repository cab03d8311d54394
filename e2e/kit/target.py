"""Where the demo and the end-to-end tests run: a node on this machine, a kind cluster, or a cluster of the user's."""

from __future__ import annotations

import argparse
import atexit
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cluster
import models
from kit.kube import Kube, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class TargetError(Exception):
    """There is no cluster to run on; the message says what to do."""


@dataclass(frozen=True)
class Images:
    """References that the cluster's nodes can run."""

    operator: str
    runtime: str


@dataclass(frozen=True)
class Target:
    """A cluster that is up, and how a client on this machine reaches what runs there."""

    kube: Kube
    volumes: Path  # where claims of the local node are kept
    url: Callable[[str, str], str]  # (name, namespace) of a ModelServer to its base URL, reachable from here
    lasting_url: Callable[[str, str], str]  # the same, for the user's shell, after `shell_hint`
    shell_hint: str  # how the user's shell gets at the cluster
    removal_hint: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--context", help="use this context of your kubeconfig instead of a local cluster")
    parser.add_argument("--operator-image", help="with --context: the operator's image, as its nodes can pull it")
    parser.add_argument("--runtime-image", help="with --context: the runtime's image, as its nodes can pull it")


def parse_nothing() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([])


def bring_up(options: argparse.Namespace) -> Target:
    """A running cluster. Raises cluster.ClusterError with the cure in the message."""
    found = cluster.up(options.context)
    kube = Kube(kubeconfig=found.kubeconfig, bin_dir=found.bin, on_this_machine=found.on_this_machine)
    shell_hint = f"export KUBECONFIG={found.kubeconfig} PATH={found.bin}:$PATH"
    if found.on_this_machine:
        hint = "make cluster-down    everything"
        return Target(kube, found.volumes, kube.service_url, kube.service_url, shell_hint, hint)
    return Target(
        kube,
        found.volumes,
        _through_api_server(kube),
        lambda name, namespace: _proxied("http://127.0.0.1:8001", name, namespace),
        f"{shell_hint}; kubectl proxy --port 8001 &",
        "helm uninstall octavo -n octavo-system    the operator",
    )


def build_images(options: argparse.Namespace) -> Images:
    """Images of this checkout in the local cluster, or the ones that the user named."""
    if options.context:
        if not (options.operator_image and options.runtime_image):
            raise TargetError("--context needs --operator-image and --runtime-image, which its nodes can pull")
        return Images(options.operator_image, options.runtime_image)
    built = cluster.images()
    return Images(built["operator"], built["runtime"])


def demo_model() -> Path:
    """The file of SmolLM2-135M-Instruct, fetched once."""
    return models.smollm2_gguf()


def _through_api_server(kube: Kube) -> Callable[[str, str], str]:
    """Services of a cluster elsewhere are not reachable from here; `kubectl proxy` lends a way."""
    proxies: list[str] = []

    def base_url(name: str, namespace: str) -> str:
        if not proxies:
            proxies.append(_start_proxy(kube))
        return _proxied(proxies[0], name, namespace)

    return base_url


def _proxied(proxy: str, name: str, namespace: str) -> str:
    return f"{proxy}/api/v1/namespaces/{namespace}/services/{name}:http/proxy"


def _start_proxy(kube: Kube) -> str:
    proxy = subprocess.Popen(
        [kube.bin_dir / "kubectl", "proxy", "--port", "0"],
        env=os.environ | {"KUBECONFIG": str(kube.kubeconfig)},
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(proxy.terminate)
    assert proxy.stdout is not None
    line = wait_until("kubectl proxy", proxy.stdout.readline, seconds=20)
    return "http://" + line.rsplit(" ", 1)[-1].strip()
