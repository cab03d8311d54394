"""Whether the node is what the API server says it is.

After a crash the API server still reports what it heard last: a Ready node, running pods. Only what the kubelet has
confirmed since its start counts.
"""

from datetime import datetime
from typing import Any

from cluster.kubeconfig import ApiServer
from cluster.node_config import NODE_NAME

_LEASE = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE_NAME}"
_PODS = f"/api/v1/pods?fieldSelector=spec.nodeName={NODE_NAME}"


def node_is_ready(api: ApiServer) -> bool:
    """Whether the node's Ready condition is True."""
    node = api.read(f"/api/v1/nodes/{NODE_NAME}")
    return node is not None and is_ready(node)


def is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def kubelet_reports(api: ApiServer, since: datetime) -> bool:
    """Whether the kubelet has renewed its lease after `since`."""
    lease = api.read(_LEASE)
    return lease is not None and renewed(lease, since)


def renewed(lease: dict[str, Any], since: datetime) -> bool:
    time = lease.get("spec", {}).get("renewTime")
    return time is not None and datetime.fromisoformat(time) > since


def pods_are_current(api: ApiServer, running: set[str]) -> bool:
    """Whether every container that is reported ready is among the `running` ones (containerd's ids)."""
    pods = api.read(_PODS)
    return pods is not None and ready_containers(pods) <= running


def ready_containers(pods: dict[str, Any]) -> set[str]:
    """Ids, without `containerd://`, of the containers that a list of pods says are ready."""
    statuses = [s for pod in pods["items"] for s in pod.get("status", {}).get("containerStatuses", [])]
    return {status["containerID"].rpartition("/")[2] for status in statuses if status["ready"]}
