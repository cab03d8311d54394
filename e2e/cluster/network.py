"""The bridge that is the node's network, and the few kernel settings and rules it needs.

The node's address is the bridge's: the API server, the kubelet and NodePorts listen there, so nothing of the cluster
can be reached from another machine, and a change of the machine's own address does not matter.
"""

import json
import shutil
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

from cluster import firewall
from cluster.errors import ClusterError
from cluster.node_config import BRIDGE, Network, choose_network

_SYSCTLS = ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables")


def load_or_choose(state: Path) -> Network:
    """The block that this cluster already uses, or a free one."""
    remembered = state / "network.json"
    try:
        return Network(IPv4Network(json.loads(remembered.read_text())["block"]))
    except (FileNotFoundError, ValueError, KeyError):
        pass
    network = choose_network(_routes())
    if network is None:
        raise ClusterError("no private address block is free: see `ip route`, remove a route, or use --context NAME")
    remembered.write_text(json.dumps({"block": str(network.block)}))
    return network


def set_up(network: Network, state: Path) -> None:
    """Makes the bridge, turns on forwarding (remembering what was), and lets pods out."""
    if not Path(f"/sys/class/net/{BRIDGE}").exists():
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "address", "replace", f"{network.node}/{network.pods.prefixlen}", "brd", "+", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "br_netfilter"], capture_output=True, check=False)
    _set_sysctls(state / "sysctls.json")
    for rule in _rules(network):
        _run("iptables", "-w", "-t", rule[0], "-I", *rule[1:], "-m", "comment", "--comment", "octavo")


def take_down(state: Path) -> None:
    """Removes the bridge with everything plugged into it, our iptables rules, and puts the kernel settings back."""
    bridge = Path(f"/sys/class/net/{BRIDGE}")
    if bridge.exists():
        for port in (bridge / "brif").iterdir():
            subprocess.run(["ip", "link", "del", port.name], capture_output=True, check=False)
        _run("ip", "link", "del", BRIDGE)
    remove_rules()
    _restore_sysctls(state / "sysctls.json")


def remove_rules() -> None:
    """Takes our rules out of both iptables families."""
    for family in ("iptables", "ip6tables"):
        saved = subprocess.run([f"{family}-save"], capture_output=True, text=True, check=False)
        script = firewall.removal_script(saved.stdout)
        if script:
            _run(f"{family}-restore", "--noflush", "-w", text=script)


def _rules(network: Network) -> list[tuple[str, ...]]:
    """(table, chain, match…, -j, target): pods may talk through the bridge, and leave with the machine's address."""
    pods = str(network.pods)
    return [
        ("filter", "FORWARD", "-i", BRIDGE, "-j", "ACCEPT"),
        ("filter", "FORWARD", "-o", BRIDGE, "-j", "ACCEPT"),
        ("nat", "POSTROUTING", "-s", pods, "!", "-o", BRIDGE, "-j", "MASQUERADE"),
    ]


def _routes() -> list[IPv4Network]:
    done = subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, text=True, check=False)
    routes = json.loads(done.stdout or "[]")
    return [IPv4Network(r["dst"], strict=False) for r in routes if r["dst"] != "default" and r.get("dev") != BRIDGE]


def _set_sysctls(remembered: Path) -> None:
    before = {name: _sysctl(name).read_text().strip() for name in _SYSCTLS if _sysctl(name).exists()}
    if not remembered.exists():
        remembered.write_text(json.dumps(before))
    for name in before:
        _sysctl(name).write_text("1")


def _restore_sysctls(remembered: Path) -> None:
    if remembered.exists():
        for name, value in json.loads(remembered.read_text() or "{}").items():
            _sysctl(name).write_text(value)


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name


def _run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}")
