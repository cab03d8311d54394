from math import inf

import pytest

from octavo_operator.core.buckets import Buckets, increase, together

BOUNDS = (0.1, 1.0, inf)


def buckets(*counts: float) -> Buckets:
    return Buckets(BOUNDS, counts)


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [
        ((10, 10, 10), 0.5, 0.05),
        ((0, 10, 10), 0.5, 0.55),
        ((5, 10, 10), 0.95, 0.91),
        ((0, 0, 10), 0.95, 1.0),
    ],
    ids=["first bucket", "second bucket", "between", "beyond the last bound"],
)
def test_a_quantile_is_linear_within_its_bucket(counts, share, value):
    assert buckets(*counts).quantile(share) == pytest.approx(value)


def test_what_was_added_is_the_difference():
    assert increase([buckets(1, 2, 3), buckets(1, 4, 5), buckets(2, 6, 9)]) == buckets(1, 4, 6)


def test_a_restart_begins_again_at_zero():
    """3 more until the restart, 2 after it, and 1 more: nothing is negative and nothing is lost but the unseen."""
    seen = [buckets(1, 1, 1), buckets(2, 3, 4), buckets(0, 1, 2), buckets(1, 2, 3)]
    assert increase(seen) == buckets(2, 4, 6)


def test_one_histogram_or_other_bounds_say_nothing():
    assert increase([buckets(1, 2, 3)]) is None
    assert increase([buckets(1, 2, 3), Buckets((1.0, inf), (4, 5))]) is None


def test_replicas_add_up():
    assert together([buckets(1, 2, 3), buckets(10, 20, 30)]) == buckets(11, 22, 33)
    assert together([]) is None
