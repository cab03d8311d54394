"""The election's rules, and two candidates in a simulated world that pauses, delays and loses: never two writers."""

import heapq
import random
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_operator.core.lease import NEVER, Candidate, Record, Timing

TIMING = Timing(15)
WALL = "2026-01-01T00:00:00.000000Z"


def held(holder, duration=15.0, transitions=3):
    return Record(holder, duration, WALL, WALL, transitions)


def seen(record, version="1", now=100.0, me="a"):
    return Candidate(me, TIMING).observe(record, version, now)


def test_the_times_are_those_of_client_go():
    assert (TIMING.duration, TIMING.renew_deadline, TIMING.retry, TIMING.request) == (15, 10, 2, 4)


def test_a_write_ends_before_the_lease_does():
    assert TIMING.renew_deadline + TIMING.request < TIMING.duration


def test_a_lease_that_is_not_there_is_taken_at_once():
    assert Candidate("a", TIMING).observe(None, "", 5).wish(WALL, 5) == Record("a", 15, WALL, WALL, 0)


def test_a_released_lease_is_taken_at_once():
    assert seen(held("")).wish(WALL, 100) == Record("a", 15, WALL, WALL, 4)


def test_somebody_elses_lease_is_taken_when_it_did_not_change_for_its_duration():
    candidate = seen(held("b"))
    assert candidate.wish(WALL, 114.9) is None
    assert candidate.wish(WALL, 115) == Record("a", 15, WALL, WALL, 4)


def test_the_longer_of_two_durations_counts():
    """One operator is upgraded, the other one not yet."""
    assert seen(held("b", duration=60)).wish(WALL, 150) is None
    assert seen(held("b", duration=3)).wish(WALL, 110) is None


def test_looking_again_does_not_prolong_a_lease_and_a_renewal_does():
    candidate = seen(held("b")).observe(held("b"), "1", 110)
    assert candidate.wish(WALL, 115) is not None
    assert candidate.observe(held("b"), "2", 114).wish(WALL, 115) is None


def test_the_wall_clock_of_the_record_decides_nothing():
    ancient = replace(held("b"), renewed="1970-01-01T00:00:00.000000Z", acquired="9999-01-01T00:00:00.000000Z")
    assert seen(ancient).wish(WALL, 114) is None


def test_the_lead_counts_from_the_sending_of_the_renewal():
    leader = seen(None, "").won(held("a"), "2", sent_at=100, now=103)
    assert leader.leads(109.9)
    assert not leader.leads(110)


def test_an_own_record_of_an_earlier_process_gives_no_lead_until_it_is_renewed():
    candidate = seen(held("a"))
    assert not candidate.leads(100)
    assert candidate.wish("later", 100) == replace(held("a"), renewed="later")


def test_somebody_elses_record_ends_the_lead_at_once():
    leader = seen(None, "").won(held("a"), "2", 100, 100)
    assert leader.observe(held("b"), "3", 101).lead_until == NEVER
    assert leader.observe(None, "", 101).lead_until == NEVER


def test_the_next_look_is_when_the_lease_expires():
    candidate = seen(held("b"))
    assert candidate.pause(100) == 2
    assert candidate.pause(114.5) == 0.5
    assert candidate.pause(115) == 2
    assert seen(held("a")).pause(100) == 2


def test_only_the_holder_releases():
    assert seen(held("b")).release(WALL) is None
    released = seen(held("a")).release(WALL)
    assert released is not None
    assert (released.holder, released.duration) == ("", 1)


@pytest.mark.parametrize("raw", [{}, {"spec": None}, {"spec": {"holderIdentity": ""}}])
def test_an_empty_lease_belongs_to_nobody(raw):
    assert Record.of(raw).holder == ""


def test_a_record_survives_the_wire():
    assert Record.of({"spec": held("a").spec()}) == held("a")


# --- two candidates in one world --------------------------------------------------------------------------------------


class Server:
    """One Lease with compare and swap."""

    def __init__(self):
        self.record, self.version, self.takeovers = None, 0, []

    def write(self, record, version, now):
        """The new version, or None where the old one is stale."""
        if version != (str(self.version) if self.record else ""):
            return None
        if self.record is None or self.record.holder != record.holder:
            self.takeovers.append((now, record.holder))
        self.record, self.version = record, self.version + 1
        return str(self.version)


class World:
    """Real time, messages that take up to a request's time or get lost, processes that stand still for a while."""

    def __init__(self, seed, *, loss=0.1, pause=0.005, slowest=TIMING.request):
        self.random, self.loss, self.pause, self.slowest = random.Random(seed), loss, pause, slowest
        self.now, self.order, self.events = 0.0, count(), []
        self.server, self.writes = Server(), []

    def at(self, when, action):
        heapq.heappush(self.events, (when, next(self.order), action))

    def run(self, seconds):
        while self.events and self.events[0][0] <= seconds:
            self.now, _, action = heapq.heappop(self.events)
            action()

    def send(self, sender, call):
        """How long the sender waits by its clock, and where the answer is; none if it or the message gets lost.

        Losses come in rows: what cannot renew its Lease for half a minute may well be able to write.
        """
        if self.random.random() < self.loss / 10:
            sender.cut_off_until = self.now + self.random.uniform(0, 30)
        there, more = (self.slowest * self.random.random() ** 3 for _ in range(2))  # mostly quick
        back = there + more
        answer, arrives = [], self.random.random() >= self.loss and self.now >= sender.cut_off_until
        if arrives:
            self.at(self.now + there, lambda: answer.append(call()))
        answered = arrives and self.random.random() >= self.loss and back * sender.rate <= TIMING.request
        return (back * sender.rate, answer) if answered else (TIMING.request, [None])


class Process:
    """One operator: a clock of its own, one loop for the Lease and one that writes whenever it may."""

    def __init__(self, world, name):
        self.world, self.rate = world, world.random.uniform(0.99, 1.01)
        self.offset, self.alive = world.random.uniform(-1e6, 1e6), True
        self.stands_until = self.cut_off_until = 0.0
        self.candidate = Candidate(name, TIMING)
        for loop in (self.campaign(), self.work()):
            self.resume(loop)

    @property
    def clock(self):
        return self.offset + self.world.now * self.rate

    def resume(self, loop):
        """Goes on with a loop, once the process moves; the loop says how many seconds of its clock it waits next."""
        world = self.world
        if not self.alive:
            return
        if world.random.random() < world.pause and world.now >= self.stands_until:
            self.stands_until = world.now + world.random.uniform(0, 40)
        if world.now < self.stands_until:
            world.at(self.stands_until, lambda: self.resume(loop))
        else:
            world.at(world.now + next(loop) / self.rate, lambda: self.resume(loop))

    def campaign(self):
        server, world = self.world.server, self.world
        while True:
            wait, answer = world.send(self, lambda: (server.record, str(server.version) if server.record else ""))
            yield wait
            if answer[0] is not None:
                self.candidate = self.candidate.observe(*answer[0], self.clock)
                yield from self.renew(server)
            yield self.candidate.pause(self.clock)

    def renew(self, server):
        record, version, sent_at = self.candidate.wish(WALL, self.clock), self.candidate.version, self.clock
        if record is None:
            return
        wait, answer = self.world.send(self, lambda: server.write(record, version, self.world.now))
        yield wait
        if answer[0] is not None:
            self.candidate = self.candidate.won(record, answer[0], sent_at, self.clock)

    def work(self):
        while True:
            if self.candidate.leads(self.clock):
                delay = self.world.random.uniform(0, TIMING.request) / self.rate
                self.world.at(self.world.now + delay, self.arrive)
            yield self.world.random.uniform(0, 1)

    def arrive(self):
        self.world.writes.append((self.candidate.identity, self.world.server.record.holder))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**48), loss=st.sampled_from([0.0, 0.1, 0.5]), pause=st.sampled_from([0.0, 0.005, 0.05]))
def test_a_write_arrives_only_while_the_lease_names_its_sender(seed, loss, pause):
    world = World(seed, loss=loss, pause=pause)
    for name in "ab":
        Process(world, name)
    world.run(600)
    assert [write for write in world.writes if write[0] != write[1]] == []


def test_the_simulation_is_not_idle():
    """Both lead, often, and both write; otherwise the property above would say nothing."""
    world = World(1)
    for name in "ab":
        Process(world, name)
    world.run(3600)
    assert len(world.server.takeovers) > 10
    assert {sender for sender, _ in world.writes} == {"a", "b"}


def test_the_simulation_finds_a_lead_that_is_too_long(monkeypatch):
    """With a lead as long as the Lease, a write that is late meets the next leader."""
    monkeypatch.setattr(Timing, "renew_deadline", property(lambda timing: timing.duration))
    found = 0
    for seed in range(20):
        world = World(seed)
        for name in "ab":
            Process(world, name)
        world.run(3600)
        found += sum(sender != holder for sender, holder in world.writes)
    assert found > 0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**48))
def test_a_dead_leader_is_replaced_within_twenty_seconds(seed):
    world = World(seed, loss=0.0, pause=0.0, slowest=0.5)
    first, second = Process(world, "a"), Process(world, "b")
    world.run(60)
    leader = first if world.server.record.holder == "a" else second
    leader.alive, died = False, world.now
    world.run(60 + 200)
    (takeover,) = [at for at, _ in world.server.takeovers if at > died]
    assert TIMING.renew_deadline < takeover - died <= 20
