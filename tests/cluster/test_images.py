"""Images: what names them, what is sent, and when nothing has to be done."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from cluster.base_image import mirror
from cluster.dependency_layer import diff_id, upper_folder
from cluster.errors import ClusterError
from cluster.images import RECIPES, fingerprint, source_files, up_to_stage
from cluster.layout import repository
from cluster.oci import Image, blob_path, chain_id, digest, read_image, stream_image, write_small_image

NAME = "octavo.local/small:1"


def small_archive():
    out = io.BytesIO()
    write_small_image(NAME, {"program": b"\x7fELF"}, ["/program"], out)
    out.seek(0)
    return out


@pytest.fixture
def layout(tmp_path):
    """A small image as an unpacked OCI layout."""
    with tarfile.open(fileobj=small_archive()) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def names(archive):
    archive.seek(0)
    with tarfile.open(fileobj=archive) as opened:
        return opened.getnames()


def test_every_blob_is_named_by_its_content(layout):
    for blob in (layout / "blobs" / "sha256").iterdir():
        assert digest(blob.read_bytes()) == f"sha256:{blob.name}"


def test_a_small_image_has_its_name_its_program_and_the_same_bytes_each_time(layout):
    index = json.loads((layout / "index.json").read_text())
    assert index["manifests"][0]["annotations"] == {"io.containerd.image.name": NAME}
    layer = blob_path(layout, read_image(layout).layers[0])
    with tarfile.open(layer) as archive:
        assert [(m.name, m.mode) for m in archive] == [("program", 0o755)]
    assert small_archive().read() == small_archive().read()


def test_chain_ids_follow_the_specification():
    diffs = ["sha256:a", "sha256:b", "sha256:c"]
    image = Image(b"{}", json.dumps({"rootfs": {"diff_ids": diffs}}).encode())
    second = digest(b"sha256:a sha256:b")
    assert image.chain_ids() == ("sha256:a", second, digest(f"{second} sha256:c".encode()))
    assert chain_id(None, "sha256:a") == "sha256:a"


def test_a_layer_is_added_at_its_place_and_documents_agree(layout):
    image = read_image(layout)
    added = image.with_layer(1, "sha256:dependencies")
    assert added.layers == (image.layers[0], "sha256:dependencies")
    assert added.chain_ids() == (*image.chain_ids(), chain_id(image.chain_ids()[0], "sha256:dependencies"))
    config = json.loads(added.manifest)["config"]
    assert (config["digest"], config["size"]) == (digest(added.config), len(added.config))
    assert image.with_layer(0, "sha256:base").layers == ("sha256:base", image.layers[0])


def test_an_index_that_leads_to_two_images_is_refused(layout):
    index = json.loads((layout / "index.json").read_text())
    index["manifests"] *= 2
    (layout / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="too many values"):
        read_image(layout)


def test_a_layer_that_the_reader_has_is_not_sent(layout):
    image, whole, part = read_image(layout), io.BytesIO(), io.BytesIO()
    stream_image(image, layout, NAME, set(), whole)
    stream_image(image, layout, NAME, set(image.layers), part)
    left_out = set(names(whole)) - set(names(part))
    assert left_out == {f"blobs/{image.layers[0].replace(':', '/')}"}


def tree(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return [root / name for name in files]


def test_a_fingerprint_depends_on_places_contents_and_the_base_and_not_on_the_checkout(tmp_path):
    def print_of(folder, files, extra=""):
        return fingerprint(tmp_path / folder, tree(tmp_path / folder, files), extra)

    first = print_of("a", {"x/one.py": "1", "y/two.py": "2"})
    assert print_of("b", {"x/one.py": "1", "y/two.py": "2"}) == first
    others = [
        print_of("c", {"x/one.py": "1"}),
        print_of("d", {"x/one.py": "1", "x/two.py": "2"}),
        print_of("e", {"x/one.py": "12", "y/two.py": ""}),
        print_of("f", {"x/one.py": "1", "y/two.py": "2"}, "another base"),
    ]
    assert len({first, *others}) == 5


def test_what_tools_leave_in_a_member_is_no_input(tmp_path):
    made = ["octavo_x/__pycache__/a.pyc", "build/b.py", ".mypy_cache/c.json", "octavo_x.egg-info/PKG-INFO"]
    written = ["octavo_x/__init__.py", "octavo_x/template.jinja2", "pyproject.toml"]
    tree(tmp_path, dict.fromkeys([*made, *written], ""))
    assert [path.relative_to(tmp_path).as_posix() for path in source_files(tmp_path)] == written


def test_a_change_after_a_stage_does_not_change_the_stage():
    text = "FROM b AS packages\nRUN 1\n\nFROM b AS dependencies\nRUN 2\n\nFROM b AS wheels\nRUN 3\n"
    stage = up_to_stage(text, "dependencies")
    assert stage == "FROM b AS packages\nRUN 1\n\nFROM b AS dependencies\nRUN 2\n"
    assert up_to_stage(text.replace("RUN 3", "RUN 4"), "dependencies") == stage
    assert up_to_stage(text.replace("RUN 1", "RUN 0"), "dependencies") != stage
    with pytest.raises(ClusterError, match="no stage other"):
        up_to_stage(text, "other")


def test_the_dependency_layer_is_named_by_its_lock(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text("a==1 --hash=sha256:0")
    first = diff_id(lock)
    assert diff_id(lock) == first
    lock.write_text("a==2 --hash=sha256:0")
    assert diff_id(lock) != first


def test_the_upper_folder_is_read_from_the_mount_command():
    mount = "mount -t overlay overlay /t -o index=off,workdir=/c/9/work,upperdir=/c/9/fs,lowerdir=/c/8/fs:/c/1/fs"
    assert upper_folder(mount) == Path("/c/9/fs")
    with pytest.raises(ClusterError, match="no upper folder"):
        upper_folder("mount -t bind /c/1/fs /t -o ro")


MIRRORS = """\
http://mirror.example/debian-security/ bookworm-security main
http://mirror.example/debian/ bookworm-updates main
http://mirror.example/debian/ bookworm contrib
http://mirror.example/debian/ bookworm main
"""


def test_the_mirror_is_the_one_apt_uses_for_the_suite():
    assert mirror(MIRRORS) == "http://mirror.example/debian/"


def test_a_newer_debian_lends_its_mirror_and_not_its_security_archive():
    newer = "http://s.example/debian-security/ trixie-security main\nhttp://d.example/debian/ trixie main\n"
    assert mirror(newer) == "http://d.example/debian/"


def test_no_mirror_is_said_with_the_cure():
    with pytest.raises(ClusterError, match=r"sources\.list"):
        mirror("http://s.example/debian-security/ bookworm-security main\n")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=str)
def test_every_recipe_has_its_files(recipe):
    root = repository()
    assert recipe.containerfile(root).is_file()
    assert recipe.lock(root).is_file()
    assert all((root / member / "pyproject.toml").is_file() for member in recipe.members)


@pytest.mark.parametrize(("name", "absent"), [("operator", ["torch", "triton"]), ("runtime", ["kopf", "kubernetes"])])
def test_an_image_has_nothing_of_the_other_side(name, absent):
    packages = {
        line.partition("==")[0] for line in RECIPES[name].lock(repository()).read_text().splitlines() if "==" in line
    }
    assert packages
    assert not packages & set(absent)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=str)
def test_a_containerfile_ends_as_an_unprivileged_user(recipe):
    lines = recipe.containerfile(repository()).read_text().splitlines()
    assert "USER 65532:65532" in lines
    assert lines[-1].startswith("ENTRYPOINT [")
