"""CoreDNS from its Go module: names of Services and pods, for what the node's pods must find by name."""

import shutil
from pathlib import Path

from cluster import versions
from cluster.build import go_build, require_space
from cluster.gomodule import PublishedModule
from cluster.layout import Layout
from cluster.progress import Progress
from cluster.toolchain import go_binary

_MODULE = PublishedModule(
    "github.com/coredns/coredns", versions.COREDNS, "h1:OBT+OEyHVdUiVxPhrNlC5XZVq3RkSxzQXfZQ76gm5ck="
)
_BYTES = 4 << 30


def coredns(layout: Layout, progress: Progress) -> Path:
    """The program, built where missing."""
    built = layout.cache / f"coredns-{versions.COREDNS}" / "coredns"
    if not built.exists():
        require_space(layout.cache, _BYTES, "building CoreDNS")
        go, source = go_binary(layout, progress), layout.build / "coredns"
        with progress.step(f"build CoreDNS {versions.COREDNS}") as step:
            _MODULE.unpack(_MODULE.download(go, layout, step), source)
            go_build(go, ".", built, step, module=source, flags="-s -w")
        shutil.rmtree(source)
    return built


def corefile(address: str, upstream: Path, kubeconfig: Path) -> str:
    """Names below cluster.local from the API server, all others from the machine's own resolver."""
    return f"""\
.:53 {{
    bind {address}
    errors
    kubernetes cluster.local {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    forward . {upstream}
}}
"""
