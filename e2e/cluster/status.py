"""What runs, where it lies and how big it is, for people; and the same paths for scripts."""

import os
import subprocess
from pathlib import Path

from cluster import kind, node, versions
from cluster.layout import Layout
from cluster.processes import read_pid_file


def environment(layout: Layout) -> str:
    """Shell lines: `eval "$(python -m cluster env)"`."""
    kubeconfig = kind.kubeconfig(layout) if kind.kubeconfig(layout).exists() else layout.kubeconfig
    lines = [
        f"export KUBECONFIG={kubeconfig}",
        f"export PATH={layout.bin}:$PATH",
        f"export OCTAVO_CACHE={layout.cache}",
    ]
    return "\n".join(lines)


def report(layout: Layout) -> str:
    """One screen: programs with pid and log, versions, paths, disk."""
    alive = node.running(layout)
    lines = [f"node       {_verdict(layout, alive)}"]
    for name, is_alive in alive.items():
        process = read_pid_file(layout.pids / f"{name}.json")
        state = f"pid {process.pid:<8}" if process and is_alive else "not running "
        lines.append(f"  {name:<24} {state} {layout.logs / f'{name}.log' if layout.logs.exists() else ''}")
    lines += [
        f"versions   kubernetes {versions.KUBERNETES}, helm {versions.HELM}, kwok {versions.KWOK}",
        f"kubeconfig {layout.kubeconfig}{'' if layout.kubeconfig.exists() else ' (none)'}",
        f"binaries   {layout.bin}",
        "disk       " + ", ".join(f"{name} {_size(path)}" for name, path in _parts(layout)),
    ]
    return "\n".join(lines)


def _verdict(layout: Layout, alive: dict[str, bool]) -> str:
    if node.healthy(layout):
        return "ready"
    return "not healthy: run up" if any(alive.values()) else "down"


def _parts(layout: Layout) -> list[tuple[str, Path]]:
    parts = [("binaries", layout.cache / f"kubernetes-{versions.KUBERNETES}"), ("image builds", layout.images)]
    return [*parts, ("node images", layout.containerd_root), ("node state", layout.state)]


def _size(folder: Path) -> str:
    """Disk blocks as du counts them; what is mounted below counts elsewhere."""
    if not folder.exists():
        return "0"
    done = subprocess.run(
        ["du", "-shx", folder], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    return done.stdout.split()[0] if done.stdout else "?"
