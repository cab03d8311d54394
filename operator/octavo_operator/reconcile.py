"""One reconcile for all triggers: observe, propose, apply, compute status, patch status. Decisions are in `core`."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from octavo_operator.cluster import Cluster
from octavo_operator.core.conditions import Failure
from octavo_operator.core.desired import Scaler, fresh_scaler
from octavo_operator.core.errors import ClusterError, Rejected, Unavailable
from octavo_operator.core.events import cut_event, status_events, step_events
from octavo_operator.core.manifest import Defaults, slot
from octavo_operator.core.names import OPTIONAL_KINDS, Reason
from octavo_operator.core.plan import Plan, Step
from octavo_operator.core.proposal import Proposal, facts_of, propose
from octavo_operator.core.server import Server, parse_server, parse_status
from octavo_operator.core.status import compute_status, worth_writing
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.departures import Cut, Departures
from octavo_operator.doorbell import Doorbell
from octavo_operator.gateways import Gateways
from octavo_operator.logs import kv
from octavo_operator.metrics import Metrics
from octavo_operator.recorder import Recorder
from octavo_operator.samples import Samples
from octavo_operator.settings import Settings
from octavo_operator.startups import Startups
from octavo_operator.store import Key, Observed, Raw, Store

LOAD_PERIOD_SECONDS: Final = 30.0
REJECTED_RETRY_SECONDS: Final = 60.0
AWAITED_SECONDS: Final = 2.0
"""Between two looks at a workload that is to take the place of another one: no watch may tell of it."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    """What the process remembers of one ModelServer."""

    uid: str
    server: Server
    scaler: Scaler
    last_write: float = 0.0


@dataclass(frozen=True, slots=True)
class _Applied:
    """What came of a plan. `error` asks for another try; where something `changed` the next look goes on from it."""

    failure: Failure | None
    error: Unavailable | None
    changed: bool


class Reconciler:
    """Brings what is into line with what is asked for, one ModelServer at a time."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        *,
        samples: Samples,
        recorder: Recorder,
        metrics: Metrics,
        settings: Settings,
        doorbell: Doorbell | None = None,
        startups: Startups | None = None,
        departures: Departures | None = None,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._samples = samples
        self._doorbell = doorbell
        self._startups = startups
        self._departures = departures
        self._gateways = Gateways(cluster, store)
        self._recorder = recorder
        self._metrics = metrics
        self._decide_period = settings.decide_period
        self._defaults = settings.defaults
        self._known: dict[Key, _Known] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Converges one ModelServer. Returns the seconds until it should be looked at again, or None."""
        observed = await self._gateways.observe(key, time.time())
        cuts = self._departures.take(key) if self._departures else ()
        if observed.server is None:
            self._forget(key)
            return None
        await self._tell(observed.server, cuts)
        now = time.time()
        previous = parse_status(observed.server)
        known = self._recall(key, observed.server, previous, now)
        proposal = await self._propose(observed, known, previous, now)
        if proposal.chooses:  # who goes is asked about now
            await self._samples.refresh(key)
            now = time.time()
            proposal = await self._propose(observed, known, previous, now)
        known.scaler = proposal.scaler
        done = await self._apply(key, observed.server, proposal)
        await self._write_status(observed, previous, proposal, done.failure, known=known, now=now)
        if done.error is not None:
            raise done.error
        return _sooner(self._again(proposal, done), self._gateways.next_look(key, now))

    async def _propose(self, observed: Observed, known: _Known, previous: ModelServerStatus, now: float) -> Proposal:
        """The proposal; before a write is made what the watch may not show is looked up: objects that seem to be
        missing, since it shows only labelled ones, and those of optional kinds, of which there is none.
        """

        def with_children(children: Mapping[str, Raw]) -> Proposal:
            return propose(
                known.server,
                previous,
                children=children,
                pods=observed.pods,
                windows=self._samples.windows(observed.key),
                scaler=known.scaler,
                defaults=self._defaults_now(),
                now=now,
                held=self._doorbell.held(observed.key, now) if self._doorbell else None,
                workers=observed.workers,
            )

        proposal = with_children(observed.children)
        unsure = {slot(manifest, observed.key.name): manifest for manifest in _unsure(proposal.plan)}
        looked = await asyncio.gather(*(self._look_up(manifest) for manifest in unsure.values()))
        found = dict(zip(unsure, looked, strict=True))
        if all(raw == observed.children.get(place) for place, raw in found.items()):
            return proposal
        children = {**observed.children, **found}
        return with_children({place: raw for place, raw in children.items() if raw is not None})

    async def _look_up(self, manifest: Raw) -> Raw | None:
        kind, metadata = manifest["kind"], manifest["metadata"]
        raw = await self._cluster.get(kind, metadata["namespace"], metadata["name"])
        found = raw and {**raw, "kind": kind}
        if kind in OPTIONAL_KINDS:
            self._remember(manifest, found)
        return found

    def _remember(self, manifest: Raw, found: Raw | None) -> None:
        """Takes in what was asked for by name, and that it is not there."""
        if found is not None:
            self._store.put(found)
        else:
            self._store.remove(manifest)

    def _defaults_now(self) -> Defaults:
        """What the installation wants, as far as the cluster has it."""
        served = frozenset(self._store.served)
        monitors = self._defaults.pod_monitors and "PodMonitor" in served
        return replace(self._defaults, pod_monitors=monitors, served=served, profiles=self._store.profiles)

    async def _apply(self, key: Key, server: Raw, proposal: Proposal) -> _Applied:
        """Carries out each step."""
        done, changed, failure, unavailable = [], False, proposal.failure, None
        await self._mark(proposal.plan)
        for step in (*proposal.plan.steps, *proposal.plan.removals):
            try:
                changed = await self._carry_out(step) or changed
                done.append(step)
            except Rejected as error:
                if not self._is_lost(step, error):
                    failure = Failure(Reason.APPLY_REJECTED, str(error))
            except Unavailable as error:
                unavailable = error
                if error.status == HTTPStatus.CONFLICT:
                    await self._look_again(step)
                if step.reason == Reason.CREATED:  # what is there goes on serving, so only a missing child is news
                    failure = Failure(Reason.APPLY_FAILED, str(error), stalled=False)
        await self._recorder.record(key, server, step_events(done))
        return _Applied(failure, unavailable, changed)

    async def _mark(self, plan: Plan) -> None:
        """Says which replicas should go. Where that fails others may go: no reason to keep more than are wanted."""
        for mark in plan.marks:
            try:
                self._store.put(await self._cluster.apply(mark))
            except ClusterError as error:
                logger.warning("a replica that should go is not marked", extra=kv(error=error))

    async def _tell(self, server: Raw, cuts: tuple[Cut, ...]) -> None:
        """Counts what replicas gave up on at their end, and says so."""
        for cut in cuts:
            self._metrics.requests_cut.labels(namespace=cut.key.namespace, name=cut.key.name).inc(cut.requests)
            await self._recorder.record(cut.key, server, (cut_event(cut.pod, cut.requests),))

    async def _carry_out(self, step: Step) -> bool:
        """Whether there is something to go on from; of what goes the watch tells, and of what is as it was nobody."""
        if step.reason == Reason.REMOVED:
            await self._cluster.remove(step.manifest)
            self._store.remove(step.manifest)
            return False
        return self._store.put(await self._cluster.apply(step.manifest)) is not None

    def _is_lost(self, step: Step, error: Rejected) -> bool:
        """Whether the cluster has just lost an optional kind: then there is nothing to apply, until a list says so."""
        kind = step.manifest["kind"]
        if kind not in OPTIONAL_KINDS or error.status != HTTPStatus.NOT_FOUND:
            return False
        self._store.served.discard(kind)
        return True

    async def _look_again(self, step: Step) -> None:
        """Somebody wrote the child meanwhile. The watch will tell in a moment, but of optional kinds there is none."""
        kind, metadata = step.manifest["kind"], step.manifest["metadata"]
        with contextlib.suppress(ClusterError):
            self._remember(step.manifest, await self._cluster.get(kind, metadata["namespace"], metadata["name"]))

    async def _write_status(
        self,
        before: Observed,
        previous: ModelServerStatus,
        proposal: Proposal,
        failure: Failure | None,
        *,
        known: _Known,
        now: float,
    ) -> None:
        key, after = before.key, self._store.observe(before.key)
        if before.server is None or after.server is None:
            return
        if after.server is not before.server:
            previous = parse_status(after.server)
        trouble = self._samples.trouble(key)
        progress = self._startups.of(key) if self._startups else None
        facts = facts_of(
            proposal,
            failure,
            after.children,
            after.pods,
            previous,
            trouble=trouble,
            progress=progress,
            phases=self._startups.phases(key) if self._startups else None,
            workers=after.workers,
            routes_beside=self._store.routes_beside(key),
        )
        server = proposal.server
        status = compute_status(
            server.owner,
            server.spec,
            facts,
            signals=proposal.signals,
            decision=proposal.decision,
            now=now,
            price=proposal.price,
        )
        self._count(key, proposal)
        if not worth_writing(previous, status, now - known.last_write):
            return
        if after.server["metadata"]["uid"] != server.owner.uid:
            return
        written = await self._cluster.apply_status(after.server, status.wire())
        if written is not None:
            known.last_write = now
            self._store.put(written)
            await self._recorder.record(key, written, status_events(previous, status))

    def _recall(self, key: Key, raw: Raw, previous: ModelServerStatus, now: float) -> _Known:
        """What is remembered, parsed anew for a new generation; nothing of another object with the same name."""
        known = self._known.get(key)
        metadata = raw["metadata"]
        if known is None or known.uid != metadata["uid"]:
            known = _Known(metadata["uid"], parse_server(raw), fresh_scaler(previous, now))
            self._known[key] = known
        elif known.server.generation != metadata["generation"]:
            known.server = parse_server(raw)
        return known

    def known(self) -> tuple[Key, ...]:
        """All ModelServers that something is remembered of."""
        return tuple(self._known)

    def forget_all(self) -> None:
        """Starts as a new process would: somebody else has led in the meantime."""
        if self._departures:
            self._departures.forget_all()
        for key in self.known():
            self._forget(key)

    def _forget(self, key: Key) -> None:
        if self._known.pop(key, None) is not None:
            self._recorder.forget(key)
            self._metrics.forget(key.namespace, key.name)

    def _count(self, key: Key, proposal: Proposal) -> None:
        self._metrics.desired.labels(namespace=key.namespace, name=key.name).set(proposal.desired)
        if proposal.decision is not None:
            self._metrics.decisions.labels(reason=proposal.decision.reason).inc()
            asked = proposal.decision.candidates | {"decision": proposal.decision.replicas}
            self._metrics.recommend(key.namespace, key.name, asked)

    def _again(self, proposal: Proposal, done: _Applied) -> float | None:
        if proposal.plan.awaited is not None:
            return AWAITED_SECONDS
        if done.changed and done.failure is None:  # the watch will tell nothing of it that is not known by now
            return 0.0
        if proposal.decision is not None:
            return self._decide_period
        if proposal.signals.ready:
            return LOAD_PERIOD_SECONDS
        return REJECTED_RETRY_SECONDS if done.failure and proposal.server.spec else None


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((seconds for seconds in (one, other) if seconds is not None), default=None)


def _unsure(plan: Plan) -> list[Raw]:
    """What is to be written, or waited for, and may be another than was observed."""
    steps = [(step.manifest, step.reason) for step in (*plan.steps, *plan.removals)]
    awaited = [(plan.awaited, Reason.UPDATED)] if plan.awaited else []
    return [raw for raw, why in (*steps, *awaited) if why == Reason.CREATED or raw["kind"] in OPTIONAL_KINDS]
