"""What the node's programs are told."""

import json
import tomllib
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cluster.layout import Layout
from cluster.node_config import (
    Network,
    choose_network,
    cni_config,
    containerd_config,
    kubelet_config,
    proxy_config,
)

LAYOUT = Layout(Path("/cache"))
NETWORK = Network(IPv4Network("10.222.0.0/16"))


def containerd(*, may_raise_oom_score=True, layout=LAYOUT):
    text = containerd_config(
        layout, runc=Path("/usr/sbin/runc"), cni_bin=Path("/cni"), may_raise_oom_score=may_raise_oom_score
    )
    return tomllib.loads(text)


def test_containerd_keeps_everything_below_our_folders():
    config = containerd()
    assert config["root"] == "/cache/containerd"
    assert config["state"] == "/cache/cluster/containerd"
    assert config["grpc"]["address"].startswith("/cache/cluster/")
    assert _runc(config)["options"]["Root"].startswith("/cache/cluster/")


def test_a_containerd_beside_debians_has_its_own_shim_and_registries_and_leaves_the_others_images_alone():
    config = containerd(layout=Layout(Path("/cache"), containerd=Path("/cache/containerd-v2")))
    assert config["root"] == "/cache/containerd-v2/data"
    assert _runc(config)["runtime_path"] == "/cache/containerd-v2/containerd-shim-runc-v2"
    assert _cri(config)["registry"] == {"config_path": "/cache/cluster/registries"}
    assert "runtime_path" not in _runc(containerd())
    assert _cri(containerd())["registry"] == {}


def _cri(config):
    return config["plugins"]["io.containerd.grpc.v1.cri"]


def _runc(config):
    return _cri(config)["containerd"]["runtimes"]["runc"]


@pytest.mark.parametrize("may", [True, False])
def test_oom_scores_are_restricted_only_where_the_capability_is_missing(may):
    cri = containerd(may_raise_oom_score=may)["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is not may


def test_nothing_of_the_node_listens_beyond_its_bridge():
    kubelet, proxy = kubelet_config(LAYOUT, NETWORK), proxy_config(NETWORK, Path("/k"))
    addresses = {kubelet["address"], kubelet["healthzBindAddress"], proxy["bindAddress"]}
    addresses |= {proxy[key].rpartition(":")[0] for key in ("healthzBindAddress", "metricsBindAddress")}
    assert addresses == {"10.222.0.1"}
    assert proxy["nodePortAddresses"] == ["10.222.0.1/32"]


def test_the_kubelet_writes_below_the_state_and_accepts_both_cgroup_versions():
    config = kubelet_config(LAYOUT, NETWORK)
    assert config["failCgroupV1"] is False
    assert config["podLogsDir"].startswith("/cache/cluster/")
    assert config["volumePluginDir"].startswith("/cache/cluster/")


def test_pods_get_addresses_beside_the_bridge_and_never_a_service_address():
    ipam = cni_config(NETWORK, Path("/state"))["plugins"][0]["ipam"]
    pods = IPv4Network(ipam["ranges"][0][0]["subnet"])
    assert str(NETWORK.node) == ipam["ranges"][0][0]["gateway"]
    assert NETWORK.node in pods
    assert not pods.overlaps(NETWORK.services)
    assert str(NETWORK.api_service) == "10.222.128.1"


def test_a_block_that_a_route_uses_is_passed_over():
    taken = [IPv4Network("0.0.0.0/0"), IPv4Network("10.222.7.0/24"), IPv4Network("10.122.0.0/15")]
    network = choose_network(taken)
    assert network is not None
    assert str(network.block) == "172.30.0.0/16"


def test_a_vpn_that_takes_everything_leaves_no_block():
    assert choose_network([IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]) is None


def test_configurations_are_plain_json():
    for config in (kubelet_config(LAYOUT, NETWORK), proxy_config(NETWORK, Path("/k")), cni_config(NETWORK, Path("/s"))):
        assert json.loads(json.dumps(config)) == config
