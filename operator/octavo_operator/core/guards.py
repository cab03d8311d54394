"""The children that guard the replicas and make them visible: who they are, who reaches them, how many may go at once.

ServiceAccount        always     an identity without a token: the runtime asks the API server nothing
NetworkPolicy         unless switched off: who may connect, and that replicas connect to the model's source alone, and
                      the pods of groups to each other; the activator's: that it connects to the replicas alone
PodDisruptionBudget   where there can be more than one replica; with one it could only forbid a node drain
PodMonitor            where the cluster has the kind
"""

from typing import Final

from octavo_operator.core import names
from octavo_operator.core.manifest import Defaults, Manifest, Owner, child, without_empty
from octavo_operator.core.sources import dns_ports, egress
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.spec_metrics import PROMETHEUS
from octavo_operator.core.spec_network import Peer

_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
_SCRAPE_INTERVAL: Final = "15s"
_DECISION_INTERVAL: Final = "5s"
"""Where Prometheus' samples decide: the period of decisions, since what is older cannot be decided on."""


def make_service_account(owner: Owner) -> Manifest:
    """Whom the replicas act as; they get no token of it."""
    return child(owner, "ServiceAccount", automountServiceAccountToken=False)


def make_network_policy(spec: ModelServerSpec, owner: Owner, defaults: Defaults) -> Manifest | None:
    """In: the runtime's port, from the allowed peers. Out: what the model's source needs, from a volume nothing.

    The kubelet's probes pass every policy. A model that is read from a volume needs no network, not even DNS.
    """
    wanted = spec.networking.network_policy
    if not wanted.enabled:
        return None
    peers = [*_users(wanted.allowed_from), *_scrapers(defaults), *_activator(spec, owner)]
    policy = {
        "podSelector": _pods(spec, owner),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers, "ports": _tcp(names.PORT)}, *_group_rules(spec, owner, "from")],
        "egress": [*egress(spec.model), *_group_rules(spec, owner, "to"), *_naming(spec)],
    }
    return child(owner, "NetworkPolicy", spec=without_empty(policy))


def _pods(spec: ModelServerSpec, owner: Owner) -> Manifest:
    """The selector of all pods of the ModelServer, workers too. Two that are alike are nobody's to choose."""
    if spec.nodes == 1:
        return {"matchLabels": names.selector(owner.name)}
    (key,) = names.selector(owner.name)
    both = [names.selector(owner.name)[key], names.worker_selector(owner.name)[key]]
    return {"matchExpressions": [{"key": key, "operator": "In", "values": both}]}


def _group_rules(spec: ModelServerSpec, owner: Owner, direction: str) -> list[Manifest]:
    """The pods of a group talk to each other on ports that their libraries choose (torch.distributed, gloo, NCCL)."""
    return [{direction: [{"podSelector": _pods(spec, owner)}]}] if spec.nodes > 1 else []


def _naming(spec: ModelServerSpec) -> list[Manifest]:
    """Workers know their leader by name."""
    return [{"ports": dns_ports()}] if spec.nodes > 1 and not spec.model.source.is_fetched else []


def make_activator_policy(spec: ModelServerSpec, owner: Owner, defaults: Defaults) -> Manifest | None:
    """In: who may reach the replicas; the control port from the operator and Prometheus. Out: the replicas."""
    wanted = spec.networking.network_policy
    if not wanted.enabled:
        return None
    ingress = [
        {"from": _users(wanted.allowed_from), "ports": _tcp(names.PORT)},
        *([{"from": scrapers, "ports": _tcp(names.CONTROL_PORT)}] if (scrapers := _scrapers(defaults)) else []),
    ]
    replicas = {"podSelector": {"matchLabels": names.selector(owner.name)}}
    policy = {
        "podSelector": {"matchLabels": names.activator_selector(owner.name)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": [{"to": [replicas], "ports": _tcp(names.PORT)}],
    }
    return child(owner, "NetworkPolicy", names.OF_ACTIVATOR, spec=policy)


def _tcp(port: int) -> list[Manifest]:
    return [{"protocol": "TCP", "port": port}]


def _activator(spec: ModelServerSpec, owner: Owner) -> list[Manifest]:
    """The activator, where the spec names peers and does not let the whole namespace in."""
    zero = spec.autoscaling and spec.autoscaling.scale_to_zero
    if zero is None or spec.networking.network_policy.allowed_from is None:
        return []
    return [{"podSelector": {"matchLabels": names.activator_selector(owner.name)}}]


def make_disruption_budget(spec: ModelServerSpec, owner: Owner, replicas: int) -> Manifest | None:
    """How many replicas a node drain takes away at once. A replica that does not work never holds a drain up.

    It counts pods, and one that is evicted takes its group along: one more of `nodes` is one more group.
    """
    scaling = spec.autoscaling
    most = max(replicas, scaling.max_replicas) if scaling and scaling.mode == "Active" else replicas
    if most <= 1:
        return None
    budget = {
        "maxUnavailable": (spec.disruption.max_unavailable - 1) * spec.nodes + 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": _pods(spec, owner),
    }
    return child(owner, "PodDisruptionBudget", spec=budget)


def make_pod_monitor(spec: ModelServerSpec, owner: Owner, defaults: Defaults) -> Manifest | None:
    """Asks Prometheus' operator to scrape every replica, under the ModelServer's name."""
    wanted = spec.monitoring.pod_monitor
    if not wanted.enabled:
        return None
    decides = spec.autoscaling is not None and spec.autoscaling.metrics.source == PROMETHEUS
    interval = _DECISION_INTERVAL if decides else _SCRAPE_INTERVAL
    manifest = child(owner, "PodMonitor")
    manifest["metadata"]["labels"] = {**wanted.labels, **manifest["metadata"]["labels"]}
    return _pod_monitor(manifest, names.selector(owner.name), names.PORT_NAME, interval, defaults)


def make_activator_monitor(owner: Owner, defaults: Defaults) -> Manifest | None:
    """The same for the activator, which tells its own metrics on its control port."""
    manifest = child(owner, "PodMonitor", names.OF_ACTIVATOR)
    selector = names.activator_selector(owner.name)
    return _pod_monitor(manifest, selector, names.CONTROL_PORT_NAME, _SCRAPE_INTERVAL, defaults)


def _pod_monitor(
    manifest: Manifest, selector: dict[str, str], port: str, interval: str, defaults: Defaults
) -> Manifest | None:
    if not defaults.pod_monitors:
        return None
    endpoint = {"port": port, "path": names.PATH_METRICS, "interval": interval}
    manifest["spec"] = {
        "selector": {"matchLabels": selector},
        "podTargetLabels": [names.LABEL_MODEL_SERVER],
        "podMetricsEndpoints": [endpoint],
    }
    manifest["metadata"]["labels"] = {**defaults.pod_monitor_labels, **manifest["metadata"]["labels"]}
    return manifest


def _users(allowed: tuple[Peer, ...] | None) -> list[Manifest]:
    """Whom the spec allows; without a word, the pods of the ModelServer's own namespace."""
    if allowed is None:
        return [{"podSelector": {}}]
    return [_peer(peer) for peer in allowed]


def _peer(peer: Peer) -> Manifest:
    """A peer of networking.k8s.io/v1. An empty selector is kept: it selects everything."""
    if peer.ip_block is not None:
        return {"ipBlock": {"cidr": peer.ip_block.cidr}}
    selectors = {"namespaceSelector": peer.namespace_selector, "podSelector": peer.pod_selector}
    return {
        key: without_empty({"matchLabels": dict(selector.match_labels)})
        for key, selector in selectors.items()
        if selector is not None
    }


def _scrapers(defaults: Defaults) -> list[Manifest]:
    peers: list[Manifest] = []
    if defaults.operator_namespace:
        label = {"app.kubernetes.io/name": names.FIELD_MANAGER}
        peers.append(_namespace(defaults.operator_namespace) | {"podSelector": {"matchLabels": label}})
    if defaults.prometheus_namespace:
        peers.append(_namespace(defaults.prometheus_namespace))
    return peers


def _namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: name}}}
