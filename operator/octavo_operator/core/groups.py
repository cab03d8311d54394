"""A replica that takes several nodes: a group of pods, made by a LeaderWorkerSet of leaderworkerset.x-k8s.io/v1.

    LeaderWorkerSet NAME-group ──> group 0: leader NAME-group-0, workers NAME-group-0-1, …     each group is a replica
                               ──> group 1: leader NAME-group-1, workers NAME-group-1-1, …

The leader answers requests, and stands for its group wherever replicas are selected, counted or scraped: workers have
a label that no selector of replicas fits (names.py). A group serves when its leader and all its workers are ready.
What there is of groups is read from the pods, which are watched, and not from the LeaderWorkerSet's status, which is
not (resync.py).

What LeaderWorkerSet does and we do not: a container that ends takes its whole group down, which then starts anew;
fewer groups are those with the lower numbers, whatever each of them does.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace

from octavo_operator.core import names
from octavo_operator.core.manifest import Defaults, Manifest, Owner, child
from octavo_operator.core.observed import DeploymentView, PodView, Raw, view_deployment, view_template
from octavo_operator.core.spec import ModelServerSpec


def make_groups(owner: Owner, replicas: int, nodes: int, template: Manifest, *, in_place: bool) -> tuple[Manifest, ...]:
    """The LeaderWorkerSet, and the Service that gives its pods names.

    Workers start with their leader, since it is ready only when all of them are. LeaderWorkerSet would make that
    Service itself, and takes one that is there for its own: so a name that somebody else has is seen by our plan.
    """
    name = f"{owner.name}{names.OF_GROUPS}"
    naming = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {names.GROUP_NAME: name}}
    groups = {
        "replicas": replicas,
        "startupPolicy": "LeaderCreated",
        "networkConfig": {"subdomainPolicy": "Shared"},
        "rolloutStrategy": {
            "type": "RollingUpdate",
            "rollingUpdateConfiguration": {"maxUnavailable": int(in_place), "maxSurge": int(not in_place)},
        },
        "leaderWorkerTemplate": {
            "size": nodes,
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": template,
            "workerTemplate": _worker(template, owner.name),
        },
    }
    return (
        child(owner, "Service", names.OF_GROUPS, spec=naming),
        child(owner, "LeaderWorkerSet", names.OF_GROUPS, spec=groups),
    )


def arguments(nodes: int, startup: int) -> dict[str, object]:
    """Flags of every pod of a group; LeaderWorkerSet puts the variables first into each container's environment.

    The pods wait for each other as long as a start may take (`startup`, seconds): one may fetch long after the others.
    """
    return {
        "--nodes": nodes,
        "--node-rank": f"$({names.WORKER_INDEX_VARIABLE})",
        "--leader-address": f"$({names.LEADER_ADDRESS_VARIABLE})",
        "--group-timeout": startup,
    }


def missing_kind(spec: ModelServerSpec, defaults: Defaults) -> str | None:
    """What the spec cannot do without and the cluster does not have, with its field.

    Without it nothing is made: one pod of several is no smaller replica.
    """
    if spec.nodes == 1 or "LeaderWorkerSet" in defaults.served:
        return None
    return f"accelerator.nodes needs LeaderWorkerSet of {names.RESOURCES['LeaderWorkerSet'].api_version}"


def view_workload(
    spec: ModelServerSpec | None,
    children: Mapping[str, Raw],
    pods: tuple[PodView, ...],
    workers: tuple[PodView, ...],
) -> DeploymentView | None:
    """What makes the replicas: a Deployment or groups, as the spec wants; else the other one, on its way out."""
    single, grouped = names.WORKLOADS
    for place in (grouped, single) if spec and spec.nodes > 1 else (single, grouped):
        if place in children:
            raw = children[place]
            return view_deployment(raw) if place == single else view_groups(raw, pods, workers)
    return None


def view_groups(raw: Raw, pods: tuple[PodView, ...], workers: tuple[PodView, ...]) -> DeploymentView:
    """A LeaderWorkerSet as a Deployment would tell of itself: `pods` are leaders, and single replicas before a change.

    Unlike a Deployment's it is never late: it is what the pods are now.
    """
    spec = raw["spec"]
    rolling: Raw = spec.get("rolloutStrategy", {}).get("rollingUpdateConfiguration", {})
    view = view_template(spec["leaderWorkerTemplate"].get("leaderTemplate", {}))
    staying = [pod for pod in pods if not pod.terminating]
    return replace(
        view,
        wanted=spec.get("replicas", 1),
        replicas=len(staying),
        updated=sum(1 for pod in staying if pod.revision == view.revision),
        available=sum(1 for pod in staying if pod.ready and _is_whole(pod, workers)),
        in_place=rolling.get("maxSurge") == 0,
        grouped=True,
    )


def without_a_node(pods: Iterable[PodView]) -> int:
    """How many replicas wait for a node, with a leader or a worker."""
    waiting = [pod for pod in pods if pod.is_homeless and not pod.terminating]
    return len({(pod.group.index, pod.revision) if pod.group else (pod.uid, None) for pod in waiting})


def _is_whole(leader: PodView, workers: tuple[PodView, ...]) -> bool:
    """Whether all workers of a leader are ready. While a group is replaced those of two revisions have its number."""
    if leader.group is None:
        return True
    own = [pod for pod in workers if pod.group == leader.group and pod.revision == leader.revision]
    return sum(1 for pod in own if pod.ready and not pod.terminating) == leader.group.size - 1


def _worker(template: Manifest, name: str) -> Manifest:
    """The leader's template for the other pods, with the same revision: what rolls one of them rolls all.

    The probes are the same too: a worker answers them, and nothing else.
    """
    worker = copy.deepcopy(template)
    worker["metadata"]["labels"] |= names.worker_selector(name)
    return worker
