"""The parts of a spec that lead traffic from outside of the cluster to the replicas, by the Gateway API."""

from typing import Annotated, Final, Literal

from pydantic import Field

from octavo_operator.core.schema import SUBDOMAIN, SpecModel

_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_HOSTNAME: Final = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


class ParentRef(SpecModel):
    """A Gateway that traffic comes from."""

    name: str = Field(max_length=253, pattern=SUBDOMAIN, description="Name of the Gateway.")
    namespace: str | None = Field(
        default=None, max_length=63, pattern=_LABEL, description="Its namespace. Default: the ModelServer's own."
    )
    section_name: str | None = Field(
        default=None, max_length=253, pattern=SUBDOMAIN, description="One of its listeners. Default: all of them."
    )
    port: int | None = Field(default=None, ge=1, le=65535, description="Listeners of that port alone. Default: all.")


class HttpRoute(SpecModel):
    """An HTTPRoute from Gateways to the replicas, or to their InferencePool where there is one."""

    parent_refs: tuple[ParentRef, ...] = Field(
        min_length=1,
        max_length=32,
        description="Gateways that traffic comes from. Their namespace must be in networking.networkPolicy.allowedFrom "
        "where it is another one.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    hostnames: tuple[Annotated[str, Field(max_length=253, pattern=_HOSTNAME)], ...] = Field(
        default=(),
        max_length=16,
        description="Host names of the requests. Default: those of the Gateway's listener. Example: chat.example.com.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    request_timeout: Literal["Disabled", "Gateway"] = Field(
        default="Disabled",
        description="How long a gateway may take for an answer, which is as long as its last token takes. Disabled: as "
        "long as it likes (HTTPRoute's timeouts.request: 0s, which Gateway API 1.2 brought). Gateway: as the gateway "
        "has it where a route says nothing; Envoy ends an answer after 15 s. Default: Disabled.",
    )


class EndpointPickerRef(SpecModel):
    """The Service of the extension that picks a replica for each request."""

    name: str = Field(max_length=253, pattern=SUBDOMAIN, description="Its name, in the ModelServer's namespace.")
    port: int = Field(default=9002, ge=1, le=65535, description="Its port. Default: 9002.")
    failure_mode: Literal["FailOpen", "FailClose"] = Field(
        default="FailClose",
        description="FailOpen: while it does not answer, any replica takes a request. FailClose: none does. "
        "Default: FailClose.",
    )


class InferencePool(SpecModel):
    """An InferencePool of the replicas, for gateways that know Kubernetes' inference extension."""

    endpoint_picker_ref: EndpointPickerRef = Field(description="Who picks a replica for each request.")
