from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_operator.core.buckets import Buckets
from octavo_operator.core.exposition import Sample
from octavo_operator.core.pace import DIRECT, WINDOW_SECONDS
from octavo_operator.core.reading import read
from octavo_operator.core.spec_metrics import pace_of
from octavo_operator.core.window import Signals, Window, aggregate


def sample(time: float, *, waiting: float = 0, used: float = 0, draining: bool = False) -> Sample:
    return Sample(time, running=1, waiting=waiting, kv_used=used, kv_capacity=100, draining=draining)


def test_the_mean_is_over_the_samples_of_the_window():
    window = Window().add(sample(0, waiting=2)).add(sample(2, waiting=4))
    mean = window.at(now=3)
    assert mean is not None
    assert mean.waiting == 3


def test_a_queue_that_two_samples_saw_counts_at_once():
    rises = [sample(time, waiting=8 if time >= 8 else 0) for time in (0, 2, 4, 6, 8, 10)]
    once, twice = filled(*rises[:-1]).at(now=8), filled(*rises).at(now=10)
    assert once is not None
    assert twice is not None
    assert (once.waiting, twice.waiting) == (8 / 5, 8)


def test_old_samples_do_not_count():
    window = Window().add(sample(0, waiting=100)).add(sample(WINDOW_SECONDS + 1, waiting=1))
    mean = window.at(now=WINDOW_SECONDS + 1)
    assert mean is not None
    assert mean.waiting == 1
    assert len(window.samples) == 2


def test_a_window_without_a_fresh_sample_has_no_mean():
    assert Window().at(now=0) is None
    assert Window().add(sample(0)).at(now=WINDOW_SECONDS) is None


def test_signals_add_up_the_known_and_count_the_unknown():
    windows = {"a": Window().add(sample(5, waiting=2, used=50)), "b": Window().add(sample(5, used=70))}
    signals = aggregate(windows, {"a": 0.0, "b": 0.0, "c": 0.0}, now=6)
    assert (signals.ready, signals.unknown, signals.known, signals.waiting) == (3, 1, 2, 2)
    assert signals.kv_utilization == 0.6


def test_a_replica_that_just_became_ready_is_unknown_but_not_silent():
    signals = aggregate({}, {"old": 0.0, "new": 99.0}, now=100)
    assert (signals.unknown, signals.silent) == (2, 1)


def test_a_draining_replica_is_neither_load_nor_capacity():
    windows = {"a": Window().add(sample(5, used=90, draining=True)), "b": Window().add(sample(5, used=10))}
    signals = aggregate(windows, {"a": 0.0, "b": 0.0}, now=6)
    assert (signals.ready, signals.kv_used, signals.kv_capacity) == (1, 10, 100)


def test_windows_of_pods_that_are_not_ready_do_not_count():
    assert aggregate({"gone": Window().add(sample(5, used=90))}, {}, now=6).kv_used == 0


def counted(time: float, *, prompt: float, waiting: float = 0, used: float = 0) -> Sample:
    return Sample(time, 1, waiting, used, 100, prompt_tokens=prompt)


def filled(*samples: Sample) -> Window:
    window = Window()
    for item in samples:
        window = window.add(item)
    return window


def test_a_rate_is_the_increase_of_a_counter_and_survives_a_restart():
    window = filled(counted(0, prompt=100), counted(5, prompt=200), counted(10, prompt=50), counted(15, prompt=80))
    reading = window.at(now=15)
    assert reading is not None
    assert reading.prompt_rate == (100 + 50 + 30) / 15


def test_a_rate_is_unknown_before_enough_was_seen():
    reading = filled(counted(0, prompt=100), counted(9, prompt=200)).at(now=9)
    assert reading is not None
    assert reading.prompt_rate is None


def test_what_arrives_is_what_was_computed_and_what_the_queue_grew_by():
    items = [Sample(time, 1, 1, 0, 100, waiting_tokens=20 * time, prompt_tokens=30 * time) for time in (0, 5, 10)]
    assert aggregate({"a": filled(*items)}, {"a": 0.0}, now=10).arrival_rate == 50
    assert aggregate({"a": filled(*items[:2])}, {"a": 0.0}, now=5).arrival_rate is None
    assert aggregate({"a": filled(sample(0), sample(10))}, {"a": 0.0}, now=10).arrival_rate is None


@pytest.mark.parametrize("period", [1.99, 2.0, 2.01])
def test_what_arrived_lately_is_known_however_the_samples_fall(period):
    """A clock never gives the ten seconds exactly, a simulation always does."""
    times = [number * period for number in range(20)]
    queues = [0] * 19 + [400]
    items = zip(times, queues, strict=True)
    window = filled(*(Sample(time, 1, 0, 0, 100, waiting_tokens=queue, prompt_tokens=0) for time, queue in items))
    signals = aggregate({"a": window}, {"a": 0.0}, times[-1])
    assert signals.newest_rate is not None
    assert signals.newest_rate > 3 * signals.arrival_rate


def test_arrivals_that_move_to_a_new_replica_are_not_there_twice():
    """100 tokens/s come to the old one for 16 s, then to the new one for 4 s."""
    old = filled(*(counted(time, prompt=100 * min(time, 16)) for time in range(2, 21, 2)))
    new = filled(*(counted(time, prompt=100 * (time - 16)) for time in (16, 18, 20)))
    assert aggregate({"a": old, "b": new}, {"a": 0.0, "b": 16.0}, now=20).arrival_rate == 100


def test_a_warm_replica_that_always_had_a_queue_shows_what_one_carries():
    queued = filled(*(counted(time, prompt=10 * time, waiting=2, used=60) for time in (0, 5, 10)))
    idle = filled(*(counted(time, prompt=4 * time, used=30) for time in (0, 5, 10)))
    warm = aggregate({"a": queued, "b": idle}, {"a": -60.0, "b": -60.0}, now=10)
    assert (warm.saturated, warm.saturated_kv, warm.saturated_rate) == (1, 60, 10)
    assert (warm.busiest_kv, warm.busiest_rate) == (30, 0), "a whole minute tells what goes through it, not 10 s"
    fills = filled(*(counted(time, prompt=4 * time, used=time) for time in range(0, 41, 5)))
    assert aggregate({"a": fills}, {"a": -60.0}, now=40).busiest_rate == 3, "and not what it came to hold"
    cold = aggregate({"a": queued}, {"a": 0.0}, now=10)
    assert (cold.saturated, cold.busiest_kv) == (0, 0)


def test_a_replica_that_still_fills_up_is_not_at_its_limit():
    """Until its memory is full it computes more than it gets rid of."""
    fills = filled(*(counted(time, prompt=10 * time, waiting=2, used=40 + 2 * time) for time in (0, 5, 10)))
    assert aggregate({"a": fills}, {"a": -60.0}, now=10).saturated == 0
    is_full = filled(*(counted(time, prompt=10 * time, waiting=2, used=58 + time / 5) for time in (0, 5, 10)))
    assert aggregate({"a": is_full}, {"a": -60.0}, now=10).saturated == 1


def test_one_sample_without_a_queue_is_no_saturation():
    window = filled(*(counted(time, prompt=time, waiting=time % 10) for time in (0, 5, 10, 15)))
    assert aggregate({"a": window}, {"a": -60.0}, now=15).saturated == 0


@pytest.mark.parametrize("name", ["ttft", "itl", "queue_time"])
def test_latencies_are_those_of_the_last_minute_and_of_all_replicas(name):
    def with_ttft(time: float, quick: float, slow: float) -> Sample:
        counts = Buckets((1.0, 2.0, inf), (quick, quick + slow, quick + slow))
        return replace(Sample(time, 1, 0, 0, 100), **{name: counts})

    def p95s(signals: Signals) -> dict[str, float | None]:
        return {"ttft": signals.ttft_p95, "itl": signals.itl_p95, "queue_time": signals.queue_wait_p95}

    quick = filled(with_ttft(0, 0, 0), with_ttft(30, 100, 0))
    slow = filled(with_ttft(0, 500, 500), with_ttft(30, 500, 600))
    signals = aggregate({"a": quick, "b": slow}, {"a": 0.0, "b": 0.0}, now=31)
    assert p95s(signals) == dict.fromkeys(("ttft", "itl", "queue_time")) | {name: 1.9}
    few = aggregate({"a": filled(with_ttft(0, 0, 0), with_ttft(30, 5, 0))}, {"a": 0.0}, now=31)
    assert p95s(few)[name] is None


def test_a_histogram_that_begins_to_be_read_is_compared_from_there_on():
    """A target for it was set: what the replica had counted before is not of the last minute."""

    def timed(time: float, count: float | None) -> Sample:
        counts = Buckets((1.0, inf), (count, count)) if count is not None else None
        return Sample(time, 1, 0, 0, 100, prompt_tokens=10 * time, queue_time=counts)

    window = filled(timed(0, None), timed(10, None), timed(20, 1000), timed(30, 1030))
    assert window.reading is not None
    assert window.reading.queue_time == Buckets((1.0, inf), (30, 30))
    assert window.reading.prompt_rate == 10
    last = window.add(timed(40, None)).reading
    assert last is not None
    assert last.queue_time is None


def test_a_replica_that_claims_another_capacity_does_not_sway_the_others():
    honest = {name: filled(Sample(5, 1, 0, 80, 100)) for name in "abc"}
    liar = {"d": filled(Sample(5, 1, 0, 1e14, 1e14))}
    assert aggregate(honest | liar, dict.fromkeys("abcd", 0.0), now=6).kv_utilization == 0.85


def test_answers_without_a_sample_are_unusable_and_not_only_silent():
    signals = aggregate({"a": Window().spoil(99.0), "b": Window()}, {"a": 0.0, "b": 0.0}, now=100)
    assert (signals.unknown, signals.silent, signals.unusable) == (2, 2, 1)


def slow(*samples: Sample) -> Window:
    """A window of samples that come from a Prometheus which scrapes every 15 s."""
    window = Window(pace=pace_of(30))
    for item in samples:
        window = window.add(item)
    return window


def test_samples_that_come_slowly_are_fresh_for_longer():
    window = slow(sample(0), sample(15))
    assert window.at(now=44) is not None
    assert window.at(now=45) is None
    assert aggregate({"a": window}, {"a": 0.0}, now=46, pace=window.pace).silent == 1
    assert aggregate({}, {"a": 20.0}, now=46, pace=window.pace).silent == 0


def test_rates_and_queues_of_samples_that_come_slowly_are_known():
    reading = slow(counted(0, prompt=0, waiting=3), counted(15, prompt=1500, waiting=3)).at(now=20)
    assert reading is not None
    assert (reading.prompt_rate, reading.queued) == (100, True)
    short = slow(counted(0, prompt=0), counted(15, prompt=1500, waiting=3)).at(now=20)
    assert short is not None
    assert not short.queued


def test_no_window_is_shorter_than_those_of_direct_samples():
    pace = pace_of(10)
    assert (pace.fresh, pace.mean, pace.rate) == (DIRECT.fresh, DIRECT.mean, DIRECT.rate)


COUNTS = st.one_of(st.none(), st.integers(0, 1000).map(float))
HISTOGRAMS = st.one_of(
    st.none(),
    st.builds(
        lambda bound, counts: Buckets((bound, inf), (float(min(counts)), float(max(counts)))),
        st.sampled_from([1.0, 2.0]),
        st.tuples(st.integers(0, 50), st.integers(0, 50)),
    ),
)
SAMPLES = st.builds(
    lambda step, waiting, used, prompt, generation, ttft: (
        step,
        Sample(0.0, 1, waiting, used, 1000, False, 10.0 * waiting, prompt, generation, ttft, queue_time=ttft),
    ),
    st.sampled_from([2.0, 2.0, 2.0, 15.0, -5.0]),
    st.integers(0, 2),
    st.integers(0, 1000),
    COUNTS,
    COUNTS,
    HISTOGRAMS,
)
GROWING = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=40).map(
    lambda steps: [
        (2.0, Sample(0.0, 1, waiting, 10, 1000, False, 5.0 * waiting, float(number * added), float(number)))
        for number, (waiting, added) in enumerate(steps)
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.lists(SAMPLES, max_size=40), GROWING))
def test_what_the_ends_of_a_window_tell_is_what_all_of_it_tells(steps):
    """Whatever begins anew, comes, goes, or lies in the future: as if nothing were known to be smooth."""
    window, time = Window(), 1000.0
    for step, item in steps:
        time += step
        window = window.add(replace(item, time=time))
        assert window.reading is not None
        slowly = read(window.samples, DIRECT, smooth_since=inf, quiet_since=window.reading.quiet_since)
        assert window.reading == slowly
