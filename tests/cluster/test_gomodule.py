import json
import zipfile
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.gomodule import PublishedModule
from cluster.layout import Layout
from cluster.progress import Progress

MODULE = PublishedModule("example.invalid/m", "v1", "h1:right")


@pytest.fixture
def download(tmp_path):
    """Downloads with a `go` that says this."""

    def run(answer, status=0):
        go = tmp_path / "go"
        go.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\nexit {status}\n")
        go.chmod(0o755)
        with Progress().step("module") as step:
            return MODULE.download(go, Layout(tmp_path), step)

    return run


def test_only_the_module_that_is_pinned_is_taken(download):
    assert download({"Sum": "h1:right", "Zip": "/m.zip"}) == Path("/m.zip")
    with pytest.raises(ClusterError, match="has the hash h1:wrong, expected h1:right"):
        download({"Sum": "h1:wrong", "Zip": "/m.zip"})
    with pytest.raises(ClusterError, match="no such host"):
        download({"Error": "no such host"}, status=1)


def test_what_is_kept_is_laid_out_anew(tmp_path):
    zipped, folder = tmp_path / "m.zip", tmp_path / "m"
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in ("go.mod", "pkg/a.go", "pkg/b.go"):
            archive.writestr(f"example.invalid/m@v1/{name}", name)
    MODULE.unpack(zipped, folder)
    (folder / "old").touch()
    MODULE.unpack(zipped, folder, keeps=lambda path: path.name != "b.go")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"go.mod", "pkg/a.go"}
