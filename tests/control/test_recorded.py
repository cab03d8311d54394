"""Arrivals out of counters: what is conserved, what is made up, and the whole way through a real Prometheus."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.prometheus import Prometheus
from octavo_operator.__main__ import main
from octavo_operator.core import names
from octavo_operator.replay.recorded import SLOT_SECONDS, Recording, added, arrivals
from octavo_operator.replay.trace import generate

START = 1_700_000_000.0
WAIT, ANSWER = 20.0, 8.0
POLICY = """
spec:
  model: {source: {pvc: {claimName: models}}}
  autoscaling: {minReplicas: 1, maxReplicas: 3, targets: {waitingPerReplica: 2}}
"""


def at(*values):
    """A counter at 0, 1, 2 …; None where it was not seen."""
    return {float(time): value for time, value in enumerate(values) if value is not None}


TIMES = [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (at(5, 7, 7, 10), [2, 0, 3]),
        (at(5, 7, 1, 4), [2, 1, 3]),
        (at(None, None, 3, 4), [0, 3, 1]),
        (at(5, None, 9, None), [0, 4, 0]),
        (at(), [0, 0, 0]),
    ],
    ids=["grows", "restarts", "is new", "was not seen", "is none"],
)
def test_what_a_counter_grew_by(values, expected):
    assert added({"pod": values}, TIMES) == expected


def recording(started, waiting):
    flat = at(0, 0, 0, 0)
    return Recording(TIMES, {"a": started}, {"a": waiting}, {"a": flat}, {"a": flat})


def test_a_request_that_waits_arrived_before_it_started():
    found = arrivals(recording(at(0, 0, 2, 3), at(0, 3, 1, 0)), seed=1)
    assert [int(item.time) for item in found] == [0, 0, 0]
    assert all(item.prompt_tokens >= 1 <= item.output_tokens for item in found)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=4, max_size=4), st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_requests_are_neither_lost_nor_invented(steps, queue):
    total, started = 0, {}
    for time, step in zip(TIMES, steps, strict=True):
        total += step
        started[time] = float(total)
    found = arrivals(recording(started, {t: float(q) for t, q in zip(TIMES, queue, strict=True)}), seed=1)
    wanted = started[3.0] - started[0.0] + queue[-1] - queue[0]
    assert len(found) >= wanted
    assert [item.time for item in found] == sorted(item.time for item in found)
    assert all(0 <= item.time <= 3 for item in found)


def past(trace, seconds):
    """Two replicas that take turns, the second from the middle on, as OpenMetrics text."""
    half, lines = seconds / 2, {}
    pods = {"chat-1": [], "chat-2": []}
    for number, item in enumerate(trace):
        pods["chat-2" if item.time >= half and number % 2 else "chat-1"].append(item)
    for pod, items in pods.items():
        for age in range(0 if pod == "chat-1" else int(half), int(seconds) + 1, 5):
            started = [item for item in items if item.time + WAIT <= age]
            values = {
                f"{names.METRIC_QUEUE_TIME}_count": len(started),
                names.METRIC_WAITING: sum(1 for item in items if item.time <= age) - len(started),
                names.METRIC_PROMPT_TOKENS: sum(item.prompt_tokens for item in started),
                names.METRIC_GENERATION_TOKENS: sum(
                    item.output_tokens for item in started if item.time + WAIT + ANSWER <= age
                ),
            }
            labels = f'{{namespace="team",octavo_dev_modelserver="chat",pod="{pod}"}}'
            for name, value in values.items():
                lines.setdefault(name, []).append(f"{name}{labels} {value} {START + age:.0f}")
    return "".join(f"# TYPE {name} unknown\n" + "\n".join(found) + "\n" for name, found in lines.items()) + "# EOF\n"


SECONDS = 1200


@pytest.fixture(scope="module")
def trace():
    return generate("ramp", duration=SECONDS, peak=1.5, seed=3)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory, trace):
    with Prometheus(tmp_path_factory.mktemp("prometheus")).load(past(trace, SECONDS)).start() as prometheus:
        yield prometheus


@pytest.fixture
def command(tmp_path, prometheus):
    """Runs the command on the past of `team/chat`."""
    policy = tmp_path / "chat.yaml"
    policy.write_text(POLICY)

    def run(*more, url=None):
        moments = ("--from", f"{START:.0f}", "--to", "2023-11-14T22:33:20Z")  # START and 20 minutes
        source = ("--prometheus", url or prometheus.url, "--namespace", "team", "--name", "chat")
        return main(["replay", "--policy", str(policy), *source, *moments, *more])

    return run


def test_the_trace_comes_back_out_of_prometheus(trace, monkeypatch, command):
    seen = []
    monkeypatch.setattr("octavo_operator.replay.command._play", lambda _, __, found, *___: seen.append(found))
    monkeypatch.setattr("octavo_operator.replay.command.table", lambda *_, **__: "")
    assert command() == 0
    (found,) = seen

    def slots(items):
        numbers = [0] * int(SECONDS // SLOT_SECONDS)
        for item in items:
            numbers[min(len(numbers) - 1, int(item.time // SLOT_SECONDS))] += 1
        return numbers

    # At the edge of a slot a request may be counted in the one before.
    assert abs(len(found) - len(trace)) <= 1
    assert max(abs(a - b) for a, b in zip(slots(found), slots(trace), strict=True)) <= 1
    for part in ("prompt_tokens", "output_tokens"):
        mean, expected = (sum(getattr(item, part) for item in items) / len(items) for items in (found, trace))
        assert mean == pytest.approx(expected, rel=0.15)


def test_the_command_plays_it(command, capsys):
    assert command("--rivals") == 0
    rows = [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:5]]
    assert rows == ["octavo", "hpa-queue", "keda-kv", "knative"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--name", "other"), "has no octavo_request_queue_time_seconds_count"),
        (("--name", 'x"}'), "no name of Kubernetes"),
        (("--to", "0"), "--to must be after --from"),
    ],
)
def test_what_does_not_fit_is_named(command, arguments, words, capsys):
    assert command(*arguments) == 64
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "words"),
    [("http://127.0.0.1:1", "could not be asked"), ("ftp://p", "must be an address"), ("p", "must be an address")],
)
def test_a_prometheus_that_is_none_is_named(command, url, words, capsys):
    assert command(url=url) == 64
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("time", ["yesterday", "2026-11-25T08:00:00"])
def test_a_time_without_a_zone_or_that_is_none_is_refused(command, time, capsys):
    with pytest.raises(SystemExit):
        command("--from", time)
    assert "--from" in capsys.readouterr().err
