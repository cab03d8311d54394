"""The election as it runs: the work comes and goes with the Lease, the fence with it."""

import asyncio
import copy

import pytest

from octavo_operator import election as module
from octavo_operator.core.errors import Unavailable
from octavo_operator.core.lease import Timing
from octavo_operator.core.manifest import Defaults
from octavo_operator.election import Election
from octavo_operator.fence import Fence, NotLeading
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.settings import Settings

SECONDS = 15.0


class Leases:
    """The API server's part: one Lease, compare and swap, outages."""

    def __init__(self):
        self.lease, self.version, self.outage = None, 0, False

    async def get(self, kind, namespace, name):
        self._answer()
        assert (kind, namespace, name) == ("Lease", "system", "octavo")
        return copy.deepcopy(self.lease)

    async def write_lease(self, lease):
        self._answer()
        if lease["metadata"].get("resourceVersion") != (
            self.lease["metadata"]["resourceVersion"] if self.lease else None
        ):
            raise Unavailable("conflict", 409)
        return self.put(lease["spec"])

    def put(self, spec):
        self.version += 1
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": copy.deepcopy(spec)}
        return copy.deepcopy(self.lease)

    def _answer(self):
        if self.outage:
            raise Unavailable("no answer")

    @property
    def holder(self):
        return self.lease["spec"]["holderIdentity"] if self.lease else None


class Operator:
    """An election with work that only notes its terms."""

    def __init__(self, leases, name, clock):
        settings = Settings(
            Defaults("image"), identity=name, lease_namespace="system", lease_name="octavo", lease_duration=SECONDS
        )
        self.fence, self.metrics = Fence(Timing(SECONDS), clock), Metrics()
        self.election = Election(leases, self.fence, settings, metrics=self.metrics, health=Health(clock))
        self.terms, self.works = [], False
        self.task = asyncio.create_task(self.election.run(self.lead))

    async def lead(self, term):
        self.terms.append(term)
        self.works = True
        try:
            await asyncio.Event().wait()
        finally:
            self.works = False

    async def end(self):
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


async def until(check):
    async with asyncio.timeout(20 * SECONDS):
        while not check():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def clock(monkeypatch):
    """Time passes when nobody has anything else to do, and then at once: no Lease is lost to a machine that is busy."""
    loop = asyncio.get_running_loop()
    now, select = loop.time(), loop._selector.select

    def pass_time(seconds):
        nonlocal now
        now += seconds or 0.0
        return select(None if seconds is None else 0.0)

    monkeypatch.setattr(loop, "time", lambda: now)
    monkeypatch.setattr(loop._selector, "select", pass_time)
    monkeypatch.setattr(module, "monotonic", loop.time)
    return loop.time


@pytest.fixture
async def start(clock):
    """Starts operators that share one Lease; all of them end with the test."""
    operators = []

    def build(leases, name="a"):
        operators.append(Operator(leases, name, clock))
        return operators[-1]

    yield build
    for operator in operators:
        if not operator.task.done():
            await operator.end()


async def test_the_work_begins_with_the_lease_and_its_end_gives_it_back(start):
    leases = Leases()
    operator = start(leases)
    with pytest.raises(NotLeading, match="PATCH"):
        operator.fence.check("PATCH")
    await until(lambda: operator.works)
    assert leases.holder == "a"
    assert operator.metrics.registry.get_sample_value("octavo_operator_leader") == 1
    await operator.end()
    assert leases.holder == ""
    assert not operator.works
    assert not operator.fence.is_open
    assert operator.metrics.registry.get_sample_value("octavo_operator_leader") == 0


async def test_an_end_amid_a_renewal_gives_the_lease_back_too(start):
    """The API server has written the renewal, and nobody has waited for its answer."""
    leases = Leases()
    operator = start(leases)
    await until(lambda: operator.works)
    write, under_way = leases.write_lease, asyncio.Event()

    async def unanswered(lease):
        await write(lease)
        under_way.set()
        await asyncio.Event().wait()

    leases.write_lease = unanswered
    await under_way.wait()
    leases.write_lease = write
    await operator.end()
    assert leases.holder == ""


async def test_a_second_one_waits_and_follows_at_once_after_a_release(start):
    leases = Leases()
    first = start(leases, "a")
    await until(lambda: first.works)
    second = start(leases, "b")
    renewals = leases.version
    await until(lambda: leases.version >= renewals + 5)
    assert not second.terms
    await first.end()
    await until(lambda: second.works)
    assert leases.holder == "b"


async def test_an_outage_ends_the_lead_and_its_end_resumes_the_same_term(start):
    leases = Leases()
    operator = start(leases)
    await until(lambda: operator.works)
    leases.outage = True
    await until(lambda: not operator.works)
    assert not operator.fence.is_open
    leases.outage = False
    await until(lambda: operator.works)
    assert len(operator.terms) >= 2
    assert operator.terms[0] == operator.terms[-1]


async def test_somebody_else_in_between_makes_it_another_term(start):
    leases = Leases()
    operator = start(leases)
    await until(lambda: operator.works)
    leases.put({"holderIdentity": "b", "leaseDurationSeconds": 1, "leaseTransitions": 7})
    await until(lambda: not operator.works)
    await until(lambda: operator.works)
    assert operator.terms[0] != operator.terms[-1]
    assert operator.terms[-1].transitions == 8


async def test_a_bug_in_the_work_ends_the_process_and_gives_the_lease_back(start):
    leases = Leases()
    operator = start(leases)
    await operator.end()

    async def broken(_):
        raise ValueError("bug")

    operator.task = asyncio.create_task(operator.election.run(broken))
    with pytest.raises(ExceptionGroup) as caught:
        await operator.task
    assert caught.group_contains(ValueError, match="bug")
    assert leases.holder == ""
