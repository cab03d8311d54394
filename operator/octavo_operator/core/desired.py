"""How many replicas are desired, and what of that survives from one look to the next.

number of replicas      where it comes from
──────────────────      ───────────────────
paused, InvalidSpec     what the Deployment has
replicas                spec.replicas
mode Off, Advisory      spec.replicas, else what is there; Advisory also reports what decide() says
mode Active             decide(), starting from what was wanted last: this process's memory, else the Deployment (a
                        restart between its write and the status' loses nothing), else status, else minReplicas; with
                        scaleToZero these may be 0
none of these           1
"""

from dataclasses import dataclass, replace

from octavo_operator.core.autoscale import Decision, decide
from octavo_operator.core.clock import from_timestamp
from octavo_operator.core.contest import NO_CONTEST, Contest
from octavo_operator.core.learn import FORGET_SECONDS, NOTHING_LEARNED, Learned
from octavo_operator.core.memory import RATE_PERIOD_SECONDS, Change, Recalled, ScalerMemory
from octavo_operator.core.observed import DeploymentView
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.record import from_record
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.wanted import Settled
from octavo_operator.core.window import Signals
from octavo_operator.core.zero import sleeps


@dataclass(frozen=True, slots=True)
class Scaler:
    """What survives from one reconcile to the next: the last number, the autoscaler's memory, who else scales."""

    desired: int | None
    memory: ScalerMemory
    contest: Contest = NO_CONTEST
    left: float | None = None
    """When a pod that ends was seen last; None where none was."""
    settled: Settled | None = None
    """None where something is to be done (wanted.py)."""


def fresh_scaler(status: ModelServerStatus, now: float) -> Scaler:
    """What a new process, or one that sees a ModelServer for the first time, starts from."""
    last = status.scaling.last_decision if status.scaling else None
    if last is None:
        return Scaler(None, ScalerMemory(since=now))
    time = from_timestamp(last.time)
    recent = last.mode == "Active" and 0 <= now - time < RATE_PERIOD_SECONDS
    changes = (Change(time, last.from_, last.to),) if recent else ()
    recalled = _recalled(last.record) if 0 <= now - time < FORGET_SECONDS else None
    learned = Learned(recalled.kv_tokens, recalled.prompt_rate, time) if recalled else NOTHING_LEARNED
    capacity = recalled.capacity if recalled else None
    return Scaler(None, ScalerMemory(since=now, changes=changes, learned=learned, capacity=capacity))


def _recalled(record: str | None) -> Recalled | None:
    """What a replica carries, and more, as it was known at the last decision."""
    try:
        return from_record(record).recalled if record is not None else None
    except ValueError:
        return None


def is_active(spec: ModelServerSpec) -> bool:
    """Whether the load decides."""
    return spec.autoscaling is not None and spec.autoscaling.mode == "Active"


def _observed(spec: ModelServerSpec, deployment: DeploymentView | None, previous: ModelServerStatus) -> int:
    """The number that was wanted until now, as the cluster knows it; 0 only where it is one that was decided."""
    if deployment is not None:
        return deployment.wanted
    first = spec.autoscaling.min_replicas if spec.autoscaling and previous.observed_generation <= 0 else 0
    return previous.desired_replicas or first


def current(
    spec: ModelServerSpec, scaler: Scaler, deployment: DeploymentView | None, previous: ModelServerStatus
) -> int:
    """The number wanted until now; where nothing is scaled, also from now on."""
    observed = _observed(spec, deployment, previous)
    if spec.autoscaling is None:
        return spec.replicas if spec.replicas is not None else 1
    if spec.replicas is not None:
        return spec.replicas
    if sleeps(spec):
        return scaler.desired if scaler.desired is not None else observed
    return scaler.desired or observed or spec.autoscaling.min_replicas


def decided(
    spec: ModelServerSpec, replicas: int, memory: ScalerMemory, signals: Signals, now: float
) -> Decision | None:
    """What the load asks for, starting from that number; None where nothing is decided."""
    if spec.autoscaling is None or spec.autoscaling.mode == "Off":
        return None
    return decide(signals, ScalingPolicy.of(spec, spec.autoscaling, now), replicas, memory, now)


def memory_after(spec: ModelServerSpec, memory: ScalerMemory, decision: Decision | None) -> ScalerMemory:
    """What is remembered. Advice that nobody carried out is no change, and must not limit the next advice."""
    if decision is None:
        return ScalerMemory(memory.since)
    return decision.memory if is_active(spec) else replace(decision.memory, changes=memory.changes)
