"""The base image where no registry can be reached: a small Debian with Python 3.11, made with debootstrap.

The mirror is the one that the machine's own apt uses; its name is removed from the result.
"""

import os
import shutil
import subprocess
from pathlib import Path

from cluster.buildah import Buildah
from cluster.debian import find
from cluster.errors import ClusterError
from cluster.layout import Layout
from cluster.mounts import remove_folder
from cluster.oci import digest
from cluster.progress import Progress

_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
_REMOVED = (
    # Caches, names of this machine and its mirror, and what no program reads.
    *(
        "etc/apt/sources.list",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/machine-id",
        "var/cache/apt",
        "var/lib/apt/lists",
    ),
    *("var/log", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"),
)
_CONTAINERFILE = "FROM scratch\nCOPY / /\n"


def base_tag() -> str:
    recipe = repr((_SUITE, _PACKAGES, _REMOVED, _CONTAINERFILE))
    return f"localhost/octavo/base:{digest(recipe.encode())[7:19]}"


def ensure_base(buildah: Buildah, layout: Layout, progress: Progress) -> str:
    """The tag of the base image, made where it is missing."""
    tag = base_tag()
    if not buildah.exists(tag):
        with progress.step(f"base image: Debian {_SUITE} with Python 3.11") as step:
            step.note("debootstrap")
            folder = layout.images / "base"
            remove_folder(folder)
            _bootstrap(folder, mirror(_apt_index_targets()))
            _strip(folder)
            step.note("commit")
            containerfile = layout.images / "base.Containerfile"
            containerfile.write_text(_CONTAINERFILE)
            buildah.build(tag, containerfile, context=folder)
            remove_folder(folder)
    return tag


def mirror(index_targets: str) -> str:
    """The mirror to use: of lines `URI SUITE COMPONENT`, one with our suite, else any that is no security archive."""
    rows = [line.split() for line in index_targets.splitlines() if len(line.split()) == 3]
    exact = [uri for uri, suite, component in rows if (suite, component) == (_SUITE, "main")]
    similar = [uri for uri, suite, component in rows if component == "main" and "/" not in suite and "-" not in suite]
    if not exact and not similar:
        raise ClusterError(
            "apt has no Debian mirror configured: add one to /etc/apt/sources.list, or give --base IMAGE"
        )
    return (exact or similar)[0]


def _apt_index_targets() -> str:
    options = ["--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    done = subprocess.run(["apt-get", "indextargets", *options], capture_output=True, text=True, check=False)
    return done.stdout


def _bootstrap(folder: Path, source: str) -> None:
    command = [
        str(find("debootstrap")),
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        _SUITE,
        str(folder),
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode != 0:
        raise ClusterError(f"debootstrap failed: {(done.stdout + done.stderr).strip().splitlines()[-1:]}")


def _environment() -> dict[str, str]:
    """Ours, with the proxy that apt is configured with."""
    done = subprocess.run(
        ["apt-config", "shell", "proxy", "Acquire::http::Proxy"], capture_output=True, text=True, check=False
    )
    _, _, proxy = done.stdout.strip().partition("=")
    return {**os.environ, **({"http_proxy": proxy.strip("'\"")} if proxy else {})}


def _strip(folder: Path) -> None:
    for name in _REMOVED:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log"):
        (folder / name).mkdir(parents=True)
