"""What the status says of money, and of what one replica carries."""

from dataclasses import replace
from fractions import Fraction

import pytest

from octavo_operator.core.autoscale import decide
from octavo_operator.core.capacity import describe_capacity
from octavo_operator.core.cost import describe_cost
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.profiles import BUILT_IN, price_of
from octavo_operator.core.spec import parse_spec
from octavo_operator.core.status import NOISE_PERIOD_SECONDS, worth_writing
from octavo_operator.core.status_model import Capacity, Cost, ModelServerStatus
from octavo_operator.core.window import Signals

BUSY = Signals(ready=2, unknown=0, kv_capacity=2000.0, prompt_rate=900.0, generation_rate=100.0)
SCALED = {"maxReplicas": 4, "targets": {"waitingPerReplica": 2}}


@pytest.mark.parametrize(
    ("spec", "price"),
    [
        ({}, None),
        ({"accelerator": {"count": 1}}, None),
        ({"accelerator": {"profile": "H100"}}, "6.9"),
        ({"accelerator": {"profile": "H100", "count": 2, "nodes": 2}}, "27.6"),
        ({"accelerator": {"profile": "H100", "costPerHour": "2.5"}}, "2.5"),
        ({"accelerator": {"count": 4, "costPerHour": "2.5"}}, "10"),
        ({"autoscaling": SCALED | {"budget": {"maxCostPerHour": "9", "replicaCostPerHour": "0.3"}}}, "0.3"),
    ],
)
def test_a_replica_costs_what_its_gpus_do_or_what_was_said(raw_spec, spec, price):
    assert price_of(parse_spec(raw_spec(**spec)), BUILT_IN) == (Fraction(price) if price else None)


def test_all_replicas_cost_and_their_tokens_share_it():
    """Two at 6.9 for 3.6 million tokens an hour."""
    assert describe_cost(Fraction("6.9"), 2, BUSY, None) == Cost(per_hour="13.8", per_million_tokens="3.8")
    assert describe_cost(Fraction("6.9"), 3, BUSY, None) == Cost(per_hour="20.7", per_million_tokens="5.8")
    assert describe_cost(Fraction("0.0125"), 1, BUSY, None).per_hour == "0.0125"
    assert describe_cost(Fraction("12000"), 1000, BUSY, None) == Cost(per_hour="12000000", per_million_tokens="3300000")


def test_tokens_have_no_price_while_none_are_computed_or_nobody_knows():
    assert describe_cost(None, 2, BUSY, None) is None
    idle = describe_cost(Fraction(7), 2, replace(BUSY, prompt_rate=0.0, generation_rate=0.0), None)
    assert idle == Cost(per_hour="14")
    assert describe_cost(Fraction(7), 3, replace(BUSY, ready=3, unknown=1), None) == Cost(per_hour="21")
    before = Cost(per_hour="14", per_million_tokens="0.42")
    assert describe_cost(Fraction(7), 2, Signals(ready=2, unknown=2), before) == before  # right after a restart


def test_what_one_carries_is_what_fits_and_what_was_seen(raw_spec):
    spec = parse_spec(raw_spec(autoscaling=SCALED))
    policy = ScalingPolicy.of(spec, spec.autoscaling, 0.0)
    full = replace(BUSY, waiting=9.0, saturated=2, saturated_kv=1234.0, saturated_rate=1111.0)

    def decided(signals):
        return decide(signals, policy, 2, ScalerMemory(0.0), 100.0)

    assert describe_capacity(None, BUSY, None) == Capacity(kv_cache_tokens=1000)
    assert describe_capacity(decided(BUSY), BUSY, None) == Capacity(kv_cache_tokens=1000)
    seen = Capacity(kv_cache_tokens=1000, kv_tokens=620, prompt_tokens_per_second=560)
    assert describe_capacity(decided(full), full, None) == seen
    assert describe_capacity(None, Signals(ready=0, unknown=0), seen) == seen


def test_both_change_with_the_load_and_are_written_as_seldom():
    before = ModelServerStatus(cost=Cost(per_hour="14", per_million_tokens="0.42"))
    after = ModelServerStatus(cost=Cost(per_hour="14", per_million_tokens="0.43"), capacity=Capacity(kv_cache_tokens=9))
    assert not worth_writing(before, after, NOISE_PERIOD_SECONDS - 1)
    assert worth_writing(before, after, NOISE_PERIOD_SECONDS)
