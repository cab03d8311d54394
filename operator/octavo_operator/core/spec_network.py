"""The parts of a spec that say who reaches the replicas, who scrapes them, and how many may be away at once."""

import ipaddress
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from octavo_operator.core.names import GROUP, SERVICE_PORT
from octavo_operator.core.schema import SpecModel, meets, rule, rules
from octavo_operator.core.spec_gateway import HttpRoute, InferencePool


class LabelSelector(SpecModel):
    """Objects by their labels; an empty one selects all."""

    match_labels: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict,
        max_length=16,
        description="Labels that an object must have. Example: kubernetes.io/metadata.name: gateway.",
    )


class IpBlock(SpecModel):
    """A range of addresses outside of the cluster."""

    cidr: str = Field(
        max_length=43,
        description="The range. Example: 10.0.0.0/8.",
        json_schema_extra=rules(
            rule(
                "isCIDR(self) && cidr(self) == cidr(self).masked()",
                "write a network such as 10.0.0.0/8, with no bit set behind its prefix",
            )
        ),
    )

    @field_validator("cidr")
    @classmethod
    def _is_a_network(cls, value: str) -> str:
        if "/" not in value:
            raise ValueError("write a network such as 10.0.0.0/8")
        ipaddress.ip_network(value)
        return value


class Peer(SpecModel):
    """Who may connect: pods, chosen by their namespace, their labels or both, or a range of addresses."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.ipBlock) != (has(self.namespaceSelector) || has(self.podSelector))",
                "set either ipBlock, or namespaceSelector or podSelector or both of these",
            )
        )
    )

    namespace_selector: LabelSelector | None = Field(
        default=None, description="Namespaces of the pods. Default: the ModelServer's own."
    )
    pod_selector: LabelSelector | None = Field(default=None, description="Labels of the pods. Default: all pods.")
    ip_block: IpBlock | None = Field(default=None, description="A range of addresses instead of pods.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.ip_block is None) == (self.namespace_selector is None and self.pod_selector is None):
            raise ValueError("set either ipBlock, or namespaceSelector or podSelector or both of these")
        return self


class NetworkPolicy(SpecModel):
    """Who may connect to the replicas. They themselves connect to nobody. The operator, and Prometheus in the namespace
    that the installation names, may always scrape them.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.enabled || !has(self.allowedFrom)",
                "allowedFrom does nothing while enabled is false: remove one of them",
                fieldPath=".allowedFrom",
            )
        )
    )

    enabled: bool = Field(
        default=True,
        description="false: no NetworkPolicy, so that what the namespace allows is allowed. Default: true.",
    )
    allowed_from: tuple[Peer, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Who may connect to the runtime's port. Default: every pod of the ModelServer's namespace. "
        'Example: [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway"}}}].',
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )

    @model_validator(mode="after")
    def _no_idle_list(self) -> Self:
        if self.allowed_from is not None and not self.enabled:
            raise ValueError("allowedFrom does nothing while enabled is false: remove one of them")
        return self


_OWN_ANNOTATION: Final = f"annotations of {GROUP} are the operator's: leave them away"


class Service(SpecModel):
    """The Service that leads to the replicas, or to their activator."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP",
        description="Where it is reached. ClusterIP: inside the cluster. NodePort: also at a port of every node, that "
        "Kubernetes chooses. LoadBalancer: also at an address that the cluster's load balancers give it. Whoever "
        "reaches it may use the model: nobody is asked for a key. Default: ClusterIP.",
    )
    port: int = Field(default=SERVICE_PORT, ge=1, le=65535, description="Its port. Default: 80.")
    annotations: Annotated[
        dict[str, Annotated[str, Field(max_length=4096)]],
        meets((lambda notes: not any(key.startswith(f"{GROUP}/") for key in notes), _OWN_ANNOTATION)),
    ] = Field(
        default_factory=dict,
        max_length=32,
        description="Annotations of it, for load balancers and other controllers that read them. Example: "
        "service.beta.kubernetes.io/aws-load-balancer-scheme: internal.",
        json_schema_extra=rules(rule(f"!self.exists(key, key.startsWith('{GROUP}/'))", _OWN_ANNOTATION)),
    )


_KEPT_OUT: Final = (
    "clients outside of the cluster are kept out by the NetworkPolicy: name their addresses, or those of the nodes, as "
    "ipBlock in networkPolicy.allowedFrom, or set networkPolicy.enabled: false"
)


def _lets_clients_in(networking: "Networking") -> bool:
    """Only a range of addresses can name who is no pod."""
    policy = networking.network_policy
    named = any(peer.ip_block is not None for peer in policy.allowed_from or ())
    return networking.service.type == "ClusterIP" or not policy.enabled or named


class Networking(SpecModel):
    """Who reaches the replicas."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                """!has(self.service) || self.service.type == 'ClusterIP'
                    || !self.networkPolicy.enabled || (has(self.networkPolicy.allowedFrom)
                    && self.networkPolicy.allowedFrom.exists(peer, has(peer.ipBlock)))""",
                _KEPT_OUT,
                fieldPath=".service.type",
            )
        )
    )

    checks: ClassVar = ((_lets_clients_in, _KEPT_OUT),)

    service: Service = Field(default=Service(), description="The Service that clients ask.")
    http_route: HttpRoute | None = Field(
        default=None, description="Traffic from Gateways, by an HTTPRoute. Default: none."
    )
    inference_pool: InferencePool | None = Field(
        default=None, description="An InferencePool of the replicas for a gateway. Default: none."
    )
    network_policy: NetworkPolicy = Field(
        default=NetworkPolicy(), description="Who may connect to the replicas. Default: the pods of their namespace."
    )


class PodMonitor(SpecModel):
    """The PodMonitor of the replicas, where the operator's chart asks for them and Prometheus' operator is there."""

    enabled: bool = Field(default=True, description="Whether there is one. Default: true.")
    labels: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict,
        max_length=16,
        description="Labels by which a Prometheus finds it, beside those of the chart. Example: team: search.",
    )


class Monitoring(SpecModel):
    """Who scrapes the replicas. The operator does so for itself, whatever this says."""

    pod_monitor: PodMonitor = Field(default=PodMonitor(), description="What Prometheus' operator is asked for.")


class Disruption(SpecModel):
    """What a node drain may do to the replicas. A single replica may always be taken away; it drains first."""

    max_unavailable: int = Field(
        default=1, ge=1, le=1000, description="Replicas that a node drain may take away at the same time. Default: 1."
    )
