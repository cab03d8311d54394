"""Which iptables rules are ours, and the script that takes them away.

Ours are: every `KUBE-*` chain (the caller makes sure that no other Kubernetes node uses this network namespace), the
chains that CNI's portmap made for our network (it writes the network's name into a comment), and the three rules of
`network.py` (comment `octavo`). Pure text in, text out.
"""

import re
import shlex
from dataclasses import dataclass, field

from cluster.node_config import CNI_NETWORK

_SHARED_PORTMAP = {"CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"}


@dataclass
class Table:
    name: str
    chains: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    """As iptables-save prints them: `-A CHAIN …`."""


def parse(saved: str) -> list[Table]:
    """Reads the output of iptables-save."""
    tables: list[Table] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            tables.append(Table(line[1:].strip()))
        elif line.startswith(":"):
            tables[-1].chains.append(line[1:].split()[0])
        elif line.startswith("-A "):
            tables[-1].rules.append(line)
    return tables


def removal_script(saved: str) -> str:
    """Input for `iptables-restore --noflush` that removes our rules and chains; empty where there are none."""
    return "".join(_removal(table) for table in parse(saved))


def _removal(table: Table) -> str:
    gone = [chain for chain in table.chains if chain in _our_chains(table)]
    kept_rules = [rule for rule in table.rules if _chain(rule) not in gone]
    deletions = ["-D " + rule[3:] for rule in kept_rules if _target(rule) in gone or _comment(rule) == "octavo"]
    if not gone and not deletions:
        return ""
    # Naming an existing chain empties it, so no order among the chains matters.
    lines = [f"*{table.name}", *(f":{c} - [0:0]" for c in gone), *deletions, *(f"-X {c}" for c in gone), "COMMIT"]
    return "\n".join(lines) + "\n"


def _our_chains(table: Table) -> set[str]:
    ours = {chain for chain in table.chains if chain.startswith("KUBE-")}
    ours |= {_target(r) for r in table.rules if f'name: \\"{CNI_NETWORK}\\"' in r and _target(r).startswith("CNI-")}
    others = {c for c in table.chains if re.match(r"CNI-DN-", c)} - ours
    return ours - _SHARED_PORTMAP | (set() if others else _SHARED_PORTMAP & set(table.chains))


def _chain(rule: str) -> str:
    return rule.split()[1]


def _target(rule: str) -> str:
    return _value(rule, "-j") or _value(rule, "-g")


def _comment(rule: str) -> str:
    return _value(rule, "--comment")


def _value(rule: str, option: str) -> str:
    words = shlex.split(rule)
    return words[words.index(option) + 1] if option in words[:-1] else ""
