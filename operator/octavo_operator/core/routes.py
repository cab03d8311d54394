"""The children that lead traffic from a gateway to the replicas, if wanted, and if the cluster has the kinds.

HTTPRoute        gateway.networking.k8s.io/v1: to the Service, or to the InferencePool where there is one
InferencePool    inference.networking.k8s.io/v1: every replica, for an extension that picks one for each request
"""

from octavo_operator.core import names
from octavo_operator.core.manifest import Defaults, Manifest, Owner, child
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.spec_gateway import HttpRoute, ParentRef


def make_inference_pool(spec: ModelServerSpec, owner: Owner, defaults: Defaults) -> Manifest | None:
    """Every pod of the ModelServer; that they are ready is for the picker to see."""
    wanted = spec.networking.inference_pool
    if wanted is None or "InferencePool" not in defaults.served:
        return None
    picker = wanted.endpoint_picker_ref
    pool = {
        "selector": {"matchLabels": names.selector(owner.name)},
        "targetPorts": [{"number": names.PORT}],
        "endpointPickerRef": {
            "kind": "Service",
            "name": picker.name,
            "port": {"number": picker.port},
            "failureMode": picker.failure_mode,
        },
    }
    return child(owner, "InferencePool", spec=pool)


def make_http_route(spec: ModelServerSpec, owner: Owner, defaults: Defaults) -> Manifest | None:
    """All paths: what a gateway adds to them or takes away is its own business. No end to an answer: many gateways have
    one for requests, after 15 s or 60 s, and a stream of tokens is one request.
    """
    wanted = spec.networking.http_route
    if wanted is None or "HTTPRoute" not in defaults.served:
        return None
    hostnames = {"hostnames": list(wanted.hostnames)} if wanted.hostnames else {}
    route = {
        "parentRefs": [_parent(parent) for parent in wanted.parent_refs],
        **hostnames,
        "rules": [{"backendRefs": [_backend(spec, owner)], **_timeouts(wanted)}],
    }
    return child(owner, "HTTPRoute", spec=route)


def missing_kinds(spec: ModelServerSpec, defaults: Defaults) -> tuple[str, ...]:
    """What the spec wants to lead traffic by and the cluster does not have, each with its field."""
    wanted = {"HTTPRoute": spec.networking.http_route, "InferencePool": spec.networking.inference_pool}
    fields = {"HTTPRoute": "networking.httpRoute", "InferencePool": "networking.inferencePool"}
    return tuple(
        f"{fields[kind]} needs {kind} of {names.RESOURCES[kind].api_version}"
        for kind, value in wanted.items()
        if value is not None and kind not in defaults.served
    )


def _parent(parent: ParentRef) -> Manifest:
    return {
        "group": names.RESOURCES["HTTPRoute"].group,
        "kind": "Gateway",
        **parent.model_dump(by_alias=True, exclude_none=True),
    }


def _timeouts(wanted: HttpRoute) -> Manifest:
    return {"timeouts": {"request": "0s"}} if wanted.request_timeout == "Disabled" else {}


def _backend(spec: ModelServerSpec, owner: Owner) -> Manifest:
    if spec.networking.inference_pool:
        return {"group": names.RESOURCES["InferencePool"].group, "kind": "InferencePool", "name": owner.name}
    return {"kind": "Service", "name": owner.name, "port": spec.networking.service.port}
