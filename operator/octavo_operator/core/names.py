"""The operator's glossary as constants: API names, labels, ports, condition types and reasons."""

from typing import Final, NamedTuple

GROUP: Final = "octavo.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "ModelServer"
PLURAL: Final = "modelservers"
SINGULAR: Final = "modelserver"
SHORT_NAME: Final = "oms"
CATEGORY: Final = "octavo"

FIELD_MANAGER: Final = "octavo-operator"


class Resource(NamedTuple):
    """Where the API server keeps a kind; the core group is empty."""

    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        """As in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version


RESOURCES: Final = {
    KIND: Resource(GROUP, VERSION, PLURAL),
    "Deployment": Resource("apps", "v1", "deployments"),
    "Service": Resource("", "v1", "services"),
    "ServiceAccount": Resource("", "v1", "serviceaccounts"),
    "NetworkPolicy": Resource("networking.k8s.io", "v1", "networkpolicies"),
    "PodDisruptionBudget": Resource("policy", "v1", "poddisruptionbudgets"),
    "PodMonitor": Resource("monitoring.coreos.com", "v1", "podmonitors"),
    "InferencePool": Resource("inference.networking.k8s.io", "v1", "inferencepools"),
    "HTTPRoute": Resource("gateway.networking.k8s.io", "v1", "httproutes"),
    "LeaderWorkerSet": Resource("leaderworkerset.x-k8s.io", "v1", "leaderworkersets"),
    "Pod": Resource("", "v1", "pods"),
    "Event": Resource("events.k8s.io", "v1", "events"),
    "Lease": Resource("coordination.k8s.io", "v1", "leases"),
    "ConfigMap": Resource("", "v1", "configmaps"),
    "PersistentVolumeClaim": Resource("", "v1", "persistentvolumeclaims"),
}
"""Every kind that the operator reads or writes."""

CHILD_KINDS: Final = (
    "ServiceAccount",
    "NetworkPolicy",
    "Service",
    "PodDisruptionBudget",
    "PersistentVolumeClaim",
    "Deployment",
    "PodMonitor",
    "InferencePool",
    "HTTPRoute",
)
"""In the order in which they are applied: before a pod starts, it has its identity and its walls."""

OF_ACTIVATOR: Final = "-activator"
OF_REPLICAS: Final = "-replicas"
OF_GROUPS: Final = "-group"
CHILDREN: Final = (
    *((kind, "") for kind in CHILD_KINDS),
    *((kind, OF_ACTIVATOR) for kind in ("NetworkPolicy", "Deployment", "PodMonitor")),
    ("Service", OF_REPLICAS),
    *((kind, OF_GROUPS) for kind in ("Service", "LeaderWorkerSet")),
)
"""Every child that there can be: its kind, and what its name has behind that of the ModelServer."""

WORKLOADS: Final = ("Deployment", f"LeaderWorkerSet{OF_GROUPS}")
"""Slots of the child that makes the replicas: the first where one fits on a node, the second where it takes several."""

OPTIONAL_KINDS: Final = frozenset({"PodMonitor", "InferencePool", "HTTPRoute", "LeaderWorkerSet"})
"""Kinds that a cluster may lack. They are listed, and not watched: a watch of them could not be added later."""

LABEL_MODEL_SERVER: Final = f"{GROUP}/modelserver"
ANNOTATION_APPLIED: Final = f"{GROUP}/applied"
"""On a child's own metadata: a hash of what was applied last, so that a field which is no longer rendered is seen."""
ANNOTATION_TEMPLATE: Final = f"{GROUP}/template"
"""On every pod: a hash of the template that it was made of, which says what pods are of the newest revision.

Creation times do not: they have whole seconds, and a rollback takes up pods that are older than those it replaces.
"""

MAX_NAME_LENGTH: Final = 52
"""A Service name has 63 characters; 11 stay free for the suffix of a child (as CronJob keeps them for its Jobs)."""
MAX_GROUPED_NAME_LENGTH: Final = MAX_NAME_LENGTH - len(OF_GROUPS) - len("-9999")
"""With several nodes for a replica. The workers of each group are a StatefulSet, NAME-group-NUMBER, and the name of one
has 52 characters: its pods' label controller-revision-hash has 63, 11 of them for the hash.
"""

# The runtime's container, as its image and the operator agree on it (tests/contract holds both sides equal).
CONTAINER: Final = "runtime"
PORT_NAME: Final = "http"
PORT: Final = 8000
SERVICE_PORT: Final = 80
PATH_LIVE: Final = "/livez"
PATH_READY: Final = "/readyz"
PATH_STARTUP: Final = "/startupz"
PATH_METRICS: Final = "/metrics"
MODELS_FOLDER: Final = "/models"
HOME: Final = "/tmp"  # noqa: S108  the pod's only writable folder, an emptyDir of its own
USER_ID: Final = 65532
DRAIN_DELAY_SECONDS: Final = 5
KILL_MARGIN_SECONDS: Final = 10

# A replica of several nodes is a group of a LeaderWorkerSet, one pod on each. The other pods answer no
# requests: their label has a dot, as the activator's, so that no selector of replicas fits.
WORKER: Final = "worker"
GROUP_NAME: Final = "leaderworkerset.sigs.k8s.io/name"
GROUP_INDEX: Final = "leaderworkerset.sigs.k8s.io/group-index"
GROUP_SIZE: Final = "leaderworkerset.sigs.k8s.io/size"
WORKER_INDEX_VARIABLE: Final = "LWS_WORKER_INDEX"
LEADER_ADDRESS_VARIABLE: Final = "LWS_LEADER_ADDRESS"

# The activator's container. Its pods' label has a dot, which no ModelServer's name has: no selector of replicas fits.
ACTIVATOR: Final = "activator"
CONTROL_PORT_NAME: Final = "control"
CONTROL_PORT: Final = 8001
PATH_HELD: Final = "/held"

GPU_RESOURCE: Final = "nvidia.com/gpu"

DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""On a pod: the ReplicaSet's controller deletes those with the lowest first. Kubernetes' own annotation."""

# Metrics that the operator reads from a runtime pod.
METRIC_RUNNING: Final = "octavo_requests_running"
METRIC_WAITING: Final = "octavo_requests_waiting"
METRIC_KV_USED: Final = "octavo_kv_tokens_used"
METRIC_KV_CAPACITY: Final = "octavo_kv_tokens_capacity"
METRIC_DRAINING: Final = "octavo_draining"
METRIC_WAITING_TOKENS: Final = "octavo_waiting_tokens"
METRIC_PROMPT_TOKENS: Final = "octavo_prompt_tokens_total"
METRIC_GENERATION_TOKENS: Final = "octavo_generation_tokens_total"
METRIC_TTFT: Final = "octavo_time_to_first_token_seconds"
METRIC_QUEUE_TIME: Final = "octavo_request_queue_time_seconds"
METRIC_ITL: Final = "octavo_inter_token_latency_seconds"


class Condition:
    """Condition types of a ModelServer. `Contended` and kstatus' `Reconciling` and `Stalled` are there while true,
    `SLOMet`, `BudgetOK`, `ModelCached` and `Routed` where the spec names latencies, a budget, a claim for fetched
    models, Gateways.
    """

    READY: Final = "Ready"
    AVAILABLE: Final = "Available"
    PROGRESSING: Final = "Progressing"
    SCALING_ACTIVE: Final = "ScalingActive"
    SCALING_LIMITED: Final = "ScalingLimited"
    METRICS_FRESH: Final = "MetricsFresh"
    CAPACITY_AVAILABLE: Final = "CapacityAvailable"
    SLO_MET: Final = "SLOMet"
    BUDGET_OK: Final = "BudgetOK"
    MODEL_CACHED: Final = "ModelCached"
    ROUTED: Final = "Routed"
    CONTENDED: Final = "Contended"
    RECONCILING: Final = "Reconciling"
    STALLED: Final = "Stalled"


class Reason:
    """Reasons of conditions and events: one CamelCase word each, a closed set."""

    # Ready, Available, Progressing
    READY: Final = "Ready"
    SCALED_TO_ZERO: Final = "ScaledToZero"
    CREATING: Final = "Creating"
    STARTING: Final = "Starting"
    ROLLING_OUT: Final = "RollingOut"
    REPLACING_IN_PLACE: Final = "ReplacingInPlace"
    SCALING_UP: Final = "ScalingUp"
    SCALING_DOWN: Final = "ScalingDown"
    DRAINING: Final = "Draining"
    SETTLED: Final = "Settled"
    REPLICAS_AVAILABLE: Final = "ReplicasAvailable"
    NO_REPLICAS_AVAILABLE: Final = "NoReplicasAvailable"
    PROGRESS_DEADLINE: Final = "ProgressDeadlineExceeded"
    PODS_REFUSED: Final = "PodsRefused"
    INVALID_SPEC: Final = "InvalidSpec"
    UNKNOWN_PROFILE: Final = "UnknownProfile"
    APPLY_REJECTED: Final = "ApplyRejected"
    APPLY_FAILED: Final = "ApplyFailed"
    NAME_TAKEN: Final = "NameTaken"
    KIND_MISSING: Final = "KindMissing"
    PAUSED: Final = "Paused"

    # CapacityAvailable, SLOMet, BudgetOK, ModelCached, Routed
    NO_REPLICA_WAITS: Final = "NoReplicaWaits"
    NO_REPLICAS: Final = "NoReplicas"
    WITHIN_LIMITS: Final = "WithinLimits"
    TOO_FEW_REQUESTS: Final = "TooFewRequests"
    WITHIN_BUDGET: Final = "WithinBudget"
    ON_CLAIM: Final = "OnClaim"
    FETCHING: Final = "Fetching"
    ROUTE_ACCEPTED: Final = "RouteAccepted"
    ROUTE_REFUSED: Final = "RouteRefused"
    BACKEND_REFUSED: Final = "BackendRefused"
    HOSTNAME_TAKEN: Final = "HostnameTaken"
    GATEWAY_SILENT: Final = "GatewaySilent"

    # What a pod says
    UNSCHEDULABLE: Final = "Unschedulable"
    IMAGE_PULL: Final = "ImagePullBackOff"
    CONTAINER_CONFIG: Final = "CreateContainerConfigError"
    CRASH_LOOP: Final = "CrashLoopBackOff"
    OOM_KILLED: Final = "OOMKilled"
    CONTAINER_FAILED: Final = "ContainerFailed"
    NOT_READY: Final = "NotReady"
    ENDED_BY_NODE: Final = "EndedByNode"

    # What the runtime writes into its termination message
    MODEL_NOT_FOUND: Final = "ModelNotFound"
    MODEL_ACCESS_DENIED: Final = "ModelAccessDenied"
    MODEL_FETCH_FAILED: Final = "ModelFetchFailed"
    MODEL_UNSUPPORTED: Final = "ModelUnsupported"
    OUT_OF_MEMORY: Final = "OutOfMemory"
    INVALID_ARGUMENT: Final = "InvalidArgument"
    ENGINE_FAILED: Final = "EngineFailed"
    LEADER_GONE: Final = "LeaderGone"
    REQUESTS_CUT: Final = "RequestsCut"

    # Scaling
    FIXED_REPLICAS: Final = "FixedReplicas"
    OFF: Final = "Off"
    ADVISORY: Final = "Advisory"
    KV_ABOVE_TARGET: Final = "KVUtilizationAboveTarget"
    WAITING_ABOVE_TARGET: Final = "WaitingAboveTarget"
    PREFILL_ABOVE_SUPPLY: Final = "PrefillAboveSupply"
    SLO_VIOLATED: Final = "SLOViolated"
    LOAD_GROWS: Final = "LoadGrows"
    LOAD_BELOW_TARGET: Final = "LoadBelowTarget"
    AS_NEEDED: Final = "AsNeeded"
    SCALE_UP_STABILIZED: Final = "ScaleUpStabilized"
    SCALE_DOWN_STABILIZED: Final = "ScaleDownStabilized"
    OBSERVING: Final = "ObservingAfterStart"
    WOULD_NOT_FIT: Final = "WouldNotFit"
    RECENTLY_SCALED: Final = "RecentlyScaled"
    METRICS_MISSING: Final = "MetricsMissing"
    METRICS_UNUSABLE: Final = "MetricsUnusable"
    PROMETHEUS_UNAVAILABLE: Final = "PrometheusUnavailable"
    NO_READY_REPLICAS: Final = "NoReadyReplicas"
    IDLE: Final = "Idle"
    HANDING_OVER: Final = "HandingOver"
    AT_ZERO: Final = "AtZero"
    WOKEN: Final = "Woken"
    ACTIVATOR_SILENT: Final = "ActivatorSilent"
    TOO_MANY_REPLICAS: Final = "TooManyReplicas"
    TOO_FEW_REPLICAS: Final = "TooFewReplicas"
    SCALE_UP_LIMIT: Final = "ScaleUpLimit"
    NO_CAPACITY: Final = "NoCapacity"
    BUDGET_EXHAUSTED: Final = "BudgetExhausted"
    SCHEDULED: Final = "Scheduled"
    WITHIN_RANGE: Final = "DesiredWithinRange"
    SCRAPED: Final = "Scraped"
    REPLICAS_CHANGED: Final = "ReplicasChangedByOthers"

    # Events only
    CREATED: Final = "Created"
    UPDATED: Final = "Updated"
    DRIFT_REPAIRED: Final = "DriftRepaired"
    REMOVED: Final = "Removed"
    SCALED_UP: Final = "ScaledUp"
    SCALED_DOWN: Final = "ScaledDown"
    ADVISED: Final = "Advised"


NOT_SCALED: Final = frozenset({Reason.FIXED_REPLICAS, Reason.PAUSED, Reason.INVALID_SPEC, Reason.OFF})
"""Why nothing is decided on a ModelServer."""

RUNTIME_REASONS: Final = frozenset(
    {
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_ACCESS_DENIED,
        Reason.MODEL_FETCH_FAILED,
        Reason.MODEL_UNSUPPORTED,
        Reason.OUT_OF_MEMORY,
        Reason.INVALID_ARGUMENT,
        Reason.ENGINE_FAILED,
        Reason.LEADER_GONE,
        Reason.REQUESTS_CUT,
    }
)
"""The only reasons that a termination message may bring in."""

ENDINGS: Final = RUNTIME_REASONS - {Reason.LEADER_GONE} | {
    Reason.OOM_KILLED,
    Reason.CONTAINER_FAILED,
    Reason.CRASH_LOOP,
}
"""Reasons that a container that has ended can give, but for the echo of another one's end."""


def labels(name: str) -> dict[str, str]:
    """Labels of every child and pod of the ModelServer `name`, but for the pods of its activator."""
    return {
        "app.kubernetes.io/name": "octavo-runtime",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        LABEL_MODEL_SERVER: name,
    }


def activator_labels(name: str) -> dict[str, str]:
    """Labels of the pods of the activator of the ModelServer `name`."""
    return labels(name) | {"app.kubernetes.io/name": "octavo-activator"} | activator_selector(name)


def selector(name: str) -> dict[str, str]:
    """The labels that select the pods of the ModelServer `name`; immutable in a Deployment, so as few as possible."""
    return {LABEL_MODEL_SERVER: name}


def activator_selector(name: str) -> dict[str, str]:
    """The labels that select the pods of its activator."""
    return {LABEL_MODEL_SERVER: f"{name}.{ACTIVATOR}"}


def worker_selector(name: str) -> dict[str, str]:
    """The labels that select the pods of its groups that are not leaders."""
    return {LABEL_MODEL_SERVER: f"{name}.{WORKER}"}


def server_of(label: str) -> str:
    """The ModelServer that an object with this label belongs to."""
    return label.partition(".")[0]


def is_activators(label: str) -> bool:
    """Whether a pod with this label, or a Service with this selector, is one of activators and not of replicas."""
    return label.endswith(f".{ACTIVATOR}")


def is_workers(label: str) -> bool:
    """Whether a pod with this label belongs to a group and is not its leader."""
    return label.endswith(f".{WORKER}")
