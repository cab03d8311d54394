"""Two operators on a real API server, each behind a proxy that notes what it sends: never two writers.

Longer and with the real Lease's times, by hand:
OCTAVO_ELECTION_ROUNDS=20 OCTAVO_ELECTION_SECONDS=15 pytest tests/control/apiserver/test_election.py -s
"""

import json
import os
import signal
import threading
import time

import pytest

from kit.api_proxy import ApiProxy

pytestmark = pytest.mark.apiserver

ROUNDS = int(os.environ.get("OCTAVO_ELECTION_ROUNDS", "1"))
LEASE_SECONDS = int(os.environ.get("OCTAVO_ELECTION_SECONDS", "8"))


class Journal:
    """What passed the proxies, in one order: who holds the Lease after a write to it, and who wrote anything else."""

    def __init__(self):
        self.lock, self.entries = threading.Lock(), []

    def note(self, kind, who, what):
        with self.lock:
            self.entries.append((time.monotonic(), kind, who, what))

    def holder(self):
        with self.lock:
            holders = [who for _, kind, who, _ in self.entries if kind == "holder"]
        return holders[-1] if holders else ""

    def foreign_writes(self):
        """Writes that began when the API server had already given the Lease to somebody else, or had it back."""
        holder, found = "", []
        with self.lock:
            for _, kind, who, what in self.entries:
                if kind == "holder":
                    holder = who
                elif who != holder:
                    found.append((who, holder, what))
        return found

    def writers(self):
        with self.lock:
            return {who for _, kind, who, _ in self.entries if kind == "write"}


class Watched(ApiProxy):
    """In front of the API server, for one operator: notes what it writes and whether the Lease was given to it."""

    def __init__(self, operator, kubeconfig, folder, journal):
        super().__init__(kubeconfig, folder, operator)
        self.operator, self.journal = operator, journal
        self.fault, self.answered = self.note_write, self.note_holder

    def note_write(self, call):
        if call.writes and call.resource != "leases":
            self.journal.note("write", self.operator, f"{call.verb} {call.path}")

    def note_holder(self, call, status):
        if call.writes and call.resource == "leases" and status < 300:
            self.journal.note("holder", json.loads(call.body)["spec"]["holderIdentity"], "")


@pytest.fixture(scope="module")
def pair(operator, operator_with, tmp_path_factory):
    """Two operators by name, and the journal of what they send; the session's operator rests."""
    operator.stop()
    tmp_path = tmp_path_factory.mktemp("pair")
    journal, proxies, operators = Journal(), [], {}
    try:
        for name in ("first", "second"):
            proxy = Watched(name, operator.kubeconfig, tmp_path, journal)
            proxies.append(proxy)
            log = tmp_path / f"{name}.log"
            operators[name] = operator_with(
                proxy.kubeconfig, log, POD_NAME=name, OCTAVO_LEASE_DURATION=str(LEASE_SECONDS)
            )
            operators[name].start()
        yield operators, journal
    finally:
        for one in operators.values():
            one.resume()
            one.stop()
        for proxy in proxies:
            proxy.close()
        operator.start()


def test_a_leader_that_is_killed_or_paused_is_replaced_and_never_writes_again(pair, kube, wait):
    operators, journal = pair
    kube.server(replicas=1)
    wait(lambda: kube.find("deployment"))
    for number in range(2 * ROUNDS):
        old = wait(journal.holder)
        start, before = time.monotonic(), kube.get("deployment")["spec"]["replicas"]
        operators[old].stop(signal.SIGKILL) if number % 2 == 0 else operators[old].pause()
        kube.server(replicas=before % 5 + 1)
        kube.run("delete", "service", "chat", "--ignore-not-found")
        wait(lambda old=old: journal.holder() not in ("", old))
        taken = time.monotonic() - start
        wait(lambda want=before % 5 + 1: kube.get("deployment")["spec"]["replicas"] == want and kube.find("service"))
        how = "killed" if number % 2 == 0 else "paused"
        print(
            f"round {number}: {old} {how}, replaced after {taken:.1f} s, at work after {time.monotonic() - start:.1f} s"
        )
        if number % 2 == 0:
            operators[old].start()
        else:
            operators[old].resume()
            kube.server(replicas=(before + 1) % 5 + 1)
            wait(lambda want=(before + 1) % 5 + 1: kube.get("deployment")["spec"]["replicas"] == want)
            wait(lambda old=old: "not leading any more" in operators[old].log.read_text())
    assert journal.foreign_writes() == []
    assert journal.writers() == {"first", "second"}


def test_a_leader_that_is_asked_to_end_hands_over_at_once(pair, kube, wait):
    operators, journal = pair
    old = wait(journal.holder)
    assert operators[old].stop() == 0
    wait(lambda: journal.holder() not in ("", old))
    kube.server()
    wait(lambda: kube.find("deployment"))
    assert "lease released" in operators[old].log.read_text()
    assert journal.foreign_writes() == []
