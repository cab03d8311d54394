"""What is read of the machine, and what is said where it does not fit: one line with the cure."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster import debian
from cluster.build import PRODUCTS, Product, _kubernetes_flags, control_plane_binaries, require_space
from cluster.certificates import USERS, make_pki, tokens_csv
from cluster.cgroups import hierarchies
from cluster.checks import has_capability
from cluster.errors import ClusterError
from cluster.layout import Layout, paths
from cluster.mounts import Mount, parse_mounts, remove_folder
from cluster.node_health import is_ready, ready_containers, renewed
from cluster.progress import Progress, seconds
from cluster.toolchain import parse_version


def test_the_cache_is_where_the_environment_says():
    assert paths({"OCTAVO_CACHE": "/big/octavo"}).cache == Path("/big/octavo")
    assert paths({}).cache == Path.home() / ".cache" / "octavo"


def test_binaries_are_cached_by_version(tmp_path):
    layout = Layout(tmp_path)
    old, new = (Product("kubernetes", version, "k8s.io", "").folder(layout) for version in ("v1.36.2", "v1.36.3"))
    assert old != new
    assert new == tmp_path / "kubernetes-v1.36.3"


def test_the_version_is_stamped_with_its_parts():
    flags = _kubernetes_flags("v1.36.3")
    assert "-X k8s.io/component-base/version.gitVersion=v1.36.3" in flags
    assert "version.gitMajor=1 " in flags
    assert "version.gitMinor=36 " in flags


def test_every_product_has_a_module_with_pinned_sources():
    modules = Path(debian.__file__).parent / "gomodules"
    for product in PRODUCTS.values():
        text = (modules / product.name / "go.mod").read_text()
        if product.package.startswith("octavo.local"):
            assert "require" not in text
        else:
            assert f" {product.version}" in text
            assert (modules / product.name / "go.sum").is_file()


def test_too_little_disk_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1 << 30))
    with pytest.raises(ClusterError, match=r"the work needs 8 GiB of disk and .* has 1\.0: free some") as caught:
        require_space(tmp_path, 8 << 30, "the work")
    assert "\n" not in str(caught.value)


def test_assets_without_an_api_server_are_refused_by_name(tmp_path):
    (tmp_path / "etcd").touch(0o755)
    with pytest.raises(ClusterError, match=rf"KUBEBUILDER_ASSETS={tmp_path} has no kube-apiserver"):
        control_plane_binaries(Layout(tmp_path), Progress(), {"KUBEBUILDER_ASSETS": str(tmp_path)})


def test_assets_may_lack_the_controller_manager(tmp_path):
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (tmp_path / name).touch(0o755)
    found = control_plane_binaries(Layout(tmp_path), Progress(), {"KUBEBUILDER_ASSETS": str(tmp_path)})
    assert found.controller_manager is None
    assert found.etcd == tmp_path / "etcd"


def test_missing_packages_are_named_once():
    programs = {"no-such-a": "pack", "no-such-b": "pack", "sh": "dash", "no-such-c": "another"}
    assert debian.missing_packages(programs) == ["another", "pack"]


def test_without_root_a_missing_program_gives_the_command(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match="as root, apt-get install pack"):
        debian.ensure_programs({"no-such-program": "pack"}, Progress())


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.21 linux/arm64", (1, 21)),
        ("command not found", (0, 0)),
    ],
)
def test_the_toolchain_s_version_is_read(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize(("mask", "expected"), [("000001ffffffffff", True), ("000001fffeffffff", False), ("0", False)])
def test_a_capability_is_a_bit_of_the_effective_mask(mask, expected):
    assert has_capability(24, f"Name:\tx\nCapInh:\tffffffffff\nCapEff:\t{mask}\n") is expected


MOUNTINFO = """\
23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
31 23 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
40 23 0:40 / /a\\040folder/x rw - tmpfs none rw
"""


def test_mounts_are_read_with_their_escapes():
    assert parse_mounts(MOUNTINFO)[-1] == Mount(Path("/a folder/x"), "tmpfs")


def test_both_kinds_of_cgroups_are_seen_on_a_hybrid_machine():
    found = hierarchies(parse_mounts(MOUNTINFO))
    assert [(h.root.name, h.unified) for h in found] == [("cpu", False), ("unified", True)]
    assert found[0].ours == Path("/sys/fs/cgroup/cpu/octavo")


def test_a_folder_is_not_deleted_through_a_mount(tmp_path, monkeypatch):
    (tmp_path / "precious").touch()
    monkeypatch.setattr("cluster.mounts.read_mounts", lambda: [Mount(tmp_path / "volume", "ext4")])
    with pytest.raises(ClusterError, match="cannot be unmounted"):
        remove_folder(tmp_path)
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize(("elapsed", "text"), [(0.04, "0.0s"), (9.94, "9.9s"), (38.4, "38s"), (365, "6m05s")])
def test_times_are_short(elapsed, text):
    assert seconds(elapsed) == text


def test_tokens_differ_and_everybody_has_one():
    rows = [line.split(",") for line in tokens_csv().splitlines()]
    assert {row[1] for row in rows} == {user for user, _ in USERS.values()}
    assert len({row[0] for row in rows}) == len(USERS)


def test_trust_survives_a_restart_and_follows_the_address(tmp_path):
    pki = make_pki(tmp_path / "pki", ["127.0.0.1"])
    before = pki.ca.read_bytes(), pki.service_account_public.read_bytes(), pki.token("admin")
    server = pki.certificate("server").read_bytes()
    again = make_pki(tmp_path / "pki", ["127.0.0.1", "10.222.0.1"])
    assert (again.ca.read_bytes(), again.service_account_public.read_bytes(), again.token("admin")) == before
    assert again.certificate("server").read_bytes() != server
    assert {p.stat().st_mode & 0o077 for p in (again.ca_key, again.key("server"), again.token_file)} == {0}


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_lease_counts_only_where_it_is_newer_than_the_start():
    assert renewed({"spec": {"renewTime": "2026-01-01T00:00:00.000001Z"}}, NOW)
    assert not renewed({"spec": {"renewTime": "2025-12-31T23:59:59.000000Z"}}, NOW)
    assert not renewed({"spec": {}}, NOW)


def test_a_node_without_conditions_is_not_ready():
    assert not is_ready({"status": {}})
    assert not is_ready({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    assert is_ready({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})


def test_only_containers_that_are_reported_ready_are_asked_for():
    pods = {
        "items": [
            {"status": {"containerStatuses": [{"containerID": "containerd://a", "ready": True}]}},
            {"status": {"containerStatuses": [{"containerID": "containerd://b", "ready": False}]}},
            {"status": {}},
        ]
    }
    assert ready_containers(pods) == {"a"}
