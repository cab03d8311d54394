from octavo_operator.core.exposition import Sample
from octavo_operator.core.window import WINDOW_SECONDS, Window, aggregate


def sample(time: float, *, waiting: float = 0, used: float = 0, draining: bool = False) -> Sample:
    return Sample(time, running=1, waiting=waiting, kv_used=used, kv_capacity=100, draining=draining)


def test_the_mean_is_over_the_samples_of_the_window():
    window = Window().add(sample(0, waiting=2)).add(sample(2, waiting=4))
    mean = window.mean(now=3)
    assert mean is not None
    assert mean.waiting == 3


def test_old_samples_do_not_count_and_are_dropped():
    window = Window().add(sample(0, waiting=100)).add(sample(WINDOW_SECONDS + 1, waiting=1))
    mean = window.mean(now=WINDOW_SECONDS + 1)
    assert mean is not None
    assert mean.waiting == 1
    assert len(window.samples) == 1


def test_a_window_without_a_fresh_sample_has_no_mean():
    assert Window().mean(now=0) is None
    assert Window().add(sample(0)).mean(now=WINDOW_SECONDS) is None


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
