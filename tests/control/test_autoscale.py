"""The golden tests, each of them a bug of another autoscaler (named in the docstrings), and the stages one by one."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from octavo_operator.core.autoscale import BLIND_SECONDS, Decision, decide
from octavo_operator.core.learn import NOTHING_LEARNED, Learned
from octavo_operator.core.memory import (
    CALM_SECONDS,
    GAP_SECONDS,
    RATE_PERIOD_SECONDS,
    Change,
    Recommendation,
    ScalerMemory,
)
from octavo_operator.core.names import Reason
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.spec import parse_spec
from octavo_operator.core.window import Signals

POLICY = ScalingPolicy(
    min_replicas=1, max_replicas=20, kv_target=0.5, waiting_target=3, up_window=0, down_window=60, max_num_seqs=None
)
NOW = 1000.0
CAPACITY = 1000.0


def load(replicas: int, kv: float = 0.0, *, waiting: float = 0, running: float = 0, unknown: int = 0) -> Signals:
    """`replicas` ready ones, the known of them at `kv` of their capacity."""
    known = replicas - unknown
    return Signals(
        ready=replicas,
        unknown=unknown,
        silent=unknown,
        running=running,
        waiting=waiting,
        kv_used=kv * known * CAPACITY,
        kv_capacity=known * CAPACITY,
    )


def seasoned(high: int = 1, low: int = 99, changes: tuple[Change, ...] = ()) -> ScalerMemory:
    """A memory that has seen a whole window, in which these were needed; `low` is for a scale-up, and lasts."""
    return ScalerMemory(since=0.0, recommendations=(Recommendation(NOW - 30, low, high),), changes=changes)


def run(signals: Signals, current: int, memory: ScalerMemory | None = None, policy: ScalingPolicy = POLICY) -> Decision:
    return decide(signals, policy, current, memory or seasoned(), NOW)


# --- golden tests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("current", range(1, 21))
def test_g1_saturated_replicas_never_shrink(current):
    """AIBrix KPA divides the average by the target as if it were a total: 10 pods at 95 % want 5."""
    assert run(load(current, kv=0.95), current).replicas >= current


def test_g2_scale_down_goes_to_the_most_that_was_needed_in_the_window():
    """AIBrix takes the minimum of the window: one dip undoes a wish of 9."""
    decision = run(load(10, kv=0.0), 10, seasoned(high=10))
    assert (decision.replicas, decision.reason) == (10, Reason.SCALE_DOWN_STABILIZED)
    assert "10" in decision.message


def test_g3_a_failed_scrape_is_unknown_and_not_idle():
    """AIBrix reads a failed scrape as 0: all pods of a saturated pool unreachable means scale to one."""
    decision = run(load(4, unknown=4), 4)
    assert (decision.replicas, decision.reason) == (4, Reason.METRICS_MISSING)


def test_g4_tolerance_is_relative_to_what_is_there():
    """Kthena takes it around a total of one target: 5 replicas with demand for 1.05 stay 5, and 3.05 makes 4 of 3."""
    needs_1_05 = load(5, kv=1.05 * POLICY.kv_target / 5)
    assert run(needs_1_05, 5).replicas == 4
    needs_3_05 = load(3, kv=3.05 * POLICY.kv_target / 3)
    assert run(needs_3_05, 3).replicas == 3


def test_g5_a_replica_that_restarts_does_not_stop_the_others():
    """Kthena skips a group in which any pod ever restarted: two ready ones of three still ask for more."""
    assert run(load(2, kv=1.0), 3).replicas == 4


def test_g6_no_answer_at_the_peak_does_not_scale_to_the_minimum():
    """KEDA's default reads an empty answer as 0."""
    peak = run(load(10, kv=0.5), 10)
    outage = decide(load(10, unknown=10), POLICY, peak.replicas, peak.memory, NOW + 5)
    assert outage.replicas == 10


def test_g7_a_scaler_that_hears_answers_but_learns_nothing_says_so():
    """llm-d#2310: every health check green, every scrape answered, and nothing is ever scaled."""
    blind, memory = replace(load(2, unknown=2), unusable=2), seasoned()
    first = decide(blind, POLICY, 2, memory, NOW)
    assert first.reason == Reason.METRICS_MISSING
    later = decide(blind, POLICY, 2, first.memory, NOW + BLIND_SECONDS)
    assert (later.replicas, later.reason) == (2, Reason.METRICS_UNUSABLE)
    assert "2 of 2 ready replicas answer" in later.message
    seen = decide(load(2), POLICY, 2, later.memory, NOW + BLIND_SECONDS + 5)
    assert seen.memory.blind_since is None


def test_g8_a_replica_that_is_pending_for_ever_does_not_block_a_scale_down():
    """Dynamo holds while the worker count is not what was asked for."""
    decision = run(load(4, kv=0.05), 5)
    assert (decision.replicas, decision.reason) == (4, Reason.LOAD_BELOW_TARGET)


def test_g9_a_restarted_operator_keeps_the_replicas_until_it_has_seen_a_window():
    """Knative and KubeAI each had rash decisions after a restart."""
    decision = run(load(8, kv=0.01), 8, ScalerMemory(since=NOW - 20))
    assert (decision.replicas, decision.reason) == (8, Reason.OBSERVING)
    assert "20 of 60 s" in decision.message


def test_g10_a_long_queue_does_not_jump_to_what_it_divides_to():
    """With 150 waiting and a target of 3 an HPA asks for 50."""
    policy = replace(POLICY, max_replicas=100)
    first = run(load(3, waiting=150), 3, policy=policy)
    assert (first.replicas, first.limited_by) == (7, Reason.SCALE_UP_LIMIT)
    second = decide(load(3, waiting=150), policy, 7, first.memory, NOW + 5)
    assert second.replicas == 7
    third = decide(load(3, waiting=150), policy, 7, second.memory, NOW + RATE_PERIOD_SECONDS + 1)
    assert third.replicas == 14


def test_g11_a_growing_queue_scales_up_at_low_kv_use():
    """llm-d WVA waits at 32 % KV while the queue grows: a prefill-bound load."""
    decision = run(load(2, kv=0.32, waiting=12), 2)
    assert (decision.replicas, decision.reason) == (4, Reason.WAITING_ABOVE_TARGET)
    assert decision.candidates == {"kvUtilizationPercent": 2, "waitingPerReplica": 4}


def test_g11_prefill_bound_replicas_scale_up_without_a_waiting_target():
    """The same by what a replica was seen to compute while requests waited: 1000 prompt tokens a second."""
    policy = replace(POLICY, waiting_target=None, kv_target=0.8)
    memory = replace(seasoned(), learned=Learned(kv_tokens=None, prompt_rate=1000.0, time=NOW))
    busy = replace(load(2, kv=0.32, waiting=4), prompt_rate=2000.0, waiting_tokens=600.0)
    decision = run(busy, 2, memory, policy)
    assert (decision.replicas, decision.reason) == (3, Reason.PREFILL_ABOVE_SUPPLY)
    assert decision.candidates == {"kvUtilizationPercent": 2, "prefillTokens": 3}


def test_g16_zero_traffic_scales_down_to_the_minimum():
    """Dynamo's ratio is NaN at zero traffic, and it stays up."""
    current, memory, now = 4, seasoned(high=1), NOW
    for _ in range(10):
        decision = decide(load(current), POLICY, current, memory, now)
        current, memory, now = decision.replicas, decision.memory, now + RATE_PERIOD_SECONDS
    assert current == POLICY.min_replicas


def test_g17_the_budget_outweighs_every_other_bound():
    """Dynamo exceeded its budget. Here it also wins over maxReplicas, and says so."""
    decision = run(load(3, kv=1.0), 3, policy=replace(POLICY, affordable=4))
    assert (decision.replicas, decision.limited_by) == (4, Reason.BUDGET_EXHAUSTED)
    assert decision.message.endswith("the budget allows for 4")
    lowered = run(load(6, kv=1.0), 6, policy=replace(POLICY, affordable=4))
    assert (lowered.replicas, lowered.reason) == (4, Reason.BUDGET_EXHAUSTED)


# --- missing samples --------------------------------------------------------------------------------------------------


def test_unknown_replicas_count_as_empty_for_a_scale_up():
    """Half of the pool at twice the target, the other half unknown: exactly enough if those are idle."""
    assert run(load(4, kv=1.0, unknown=2), 4).replicas == 4
    assert run(load(4, kv=1.0, unknown=1), 4).replicas == 6


def test_unknown_replicas_count_as_full_for_a_scale_down():
    decision = run(load(4, kv=0.0, unknown=2), 4)
    assert (decision.replicas, decision.reason) == (4, Reason.METRICS_MISSING)
    assert "2 of 4" in decision.message


def test_one_unknown_replica_of_many_does_not_stop_a_clear_scale_down():
    assert run(load(10, kv=0.0, unknown=1), 10, seasoned(high=3)).replicas == 9


def test_without_a_ready_replica_nothing_is_decided():
    decision = run(load(0), 3)
    assert (decision.replicas, decision.reason) == (3, Reason.NO_READY_REPLICAS)


# --- stages -----------------------------------------------------------------------------------------------------------


def test_scale_up_waits_until_it_was_needed_throughout_the_window():
    policy = replace(POLICY, up_window=30)
    spike = run(load(1, kv=1.0), 1, seasoned(low=1), policy)
    assert (spike.replicas, spike.reason) == (1, Reason.SCALE_UP_STABILIZED)
    memory = spike.memory
    for step in (10, 20):
        memory = decide(load(1, kv=1.0), policy, 1, memory, NOW + step).memory
    assert decide(load(1, kv=1.0), policy, 1, memory, NOW + 30).replicas == 2


def test_while_nobody_waits_more_must_be_needed_for_20_s():
    peak = run(load(2, kv=0.6), 2, seasoned(low=1))
    assert (peak.replicas, peak.reason) == (2, Reason.SCALE_UP_STABILIZED)
    memory = decide(load(2, kv=0.6), POLICY, 2, peak.memory, NOW + 10).memory
    assert decide(load(2, kv=0.6), POLICY, 2, memory, NOW + CALM_SECONDS).replicas == 3
    assert run(load(2, kv=0.6, waiting=1), 2, seasoned(low=1)).replicas == 3


def test_a_dip_inside_the_window_restarts_the_wait():
    policy = replace(POLICY, up_window=15)
    memory = run(load(1, kv=1.0), 1, seasoned(low=1), policy).memory
    memory = decide(load(1, kv=0.1), policy, 1, memory, NOW + 5).memory
    assert decide(load(1, kv=1.0), policy, 1, memory, NOW + 15).replicas == 1


def test_scale_up_goes_only_as_far_as_the_window_agrees():
    memory = ScalerMemory(since=0, recommendations=(Recommendation(NOW - 5, low=3, high=3),))
    assert run(load(2, kv=1.0), 2, memory, replace(POLICY, up_window=15)).replicas == 3


def test_scale_down_is_one_step_and_then_a_pause():
    first = run(load(6), 6)
    assert (first.replicas, first.reason) == (5, Reason.LOAD_BELOW_TARGET)
    soon = decide(load(5), POLICY, 5, first.memory, NOW + 5)
    assert (soon.replicas, soon.reason) == (5, Reason.RECENTLY_SCALED)
    assert decide(load(5), POLICY, 5, soon.memory, NOW + RATE_PERIOD_SECONDS).replicas == 4


def test_scale_down_needs_room_for_the_tokens_in_use_on_the_rest():
    """Two of five replicas are ready: the load fits into them, not into one."""
    decision = run(load(2, kv=0.45), 2, seasoned(), replace(POLICY, waiting_target=None))
    assert decision.replicas == 2
    only_waiting = replace(POLICY, kv_target=None)
    blocked = run(load(2, kv=0.45), 2, seasoned(), only_waiting)
    assert (blocked.replicas, blocked.reason) == (2, Reason.WOULD_NOT_FIT)
    assert run(load(2, kv=0.35), 2, seasoned(), only_waiting).replicas == 1


def test_what_an_unknown_replica_runs_needs_room_too():
    policy = replace(POLICY, kv_target=None, waiting_target=1, max_num_seqs=2)
    one_of_two = load(2, running=2, waiting=1, unknown=1)
    assert run(one_of_two, 3, policy=policy).reason == Reason.WOULD_NOT_FIT


def test_scale_down_needs_room_for_the_requests_where_their_number_is_limited():
    policy = replace(POLICY, kv_target=None, max_num_seqs=4)
    assert run(load(2, running=6), 2, seasoned(), policy).reason == Reason.WOULD_NOT_FIT
    assert run(load(2, running=4), 2, seasoned(), policy).replicas == 1


@pytest.mark.parametrize(
    ("signals", "current", "expected", "limit"),
    [
        (load(20, kv=1.0), 20, 20, Reason.TOO_MANY_REPLICAS),
        (load(25, kv=0.5), 25, 20, Reason.TOO_MANY_REPLICAS),
        (load(3, kv=0.5), 3, 4, Reason.TOO_FEW_REPLICAS),
        (load(4, kv=0.0), 4, 4, Reason.TOO_FEW_REPLICAS),
    ],
    ids=["more needed than allowed", "maximum was lowered", "minimum was raised", "less needed than allowed"],
)
def test_the_bounds_win_and_say_so(signals, current, expected, limit):
    decision = run(signals, current, policy=replace(POLICY, min_replicas=4))
    assert (decision.replicas, decision.limited_by) == (expected, limit)
    assert decision.message.endswith(f"is {expected}")


def test_a_bound_that_moves_the_number_is_the_reason():
    assert run(load(3, kv=0.5), 3, policy=replace(POLICY, min_replicas=4)).reason == Reason.TOO_FEW_REPLICAS


def test_every_change_is_remembered_and_nothing_else():
    assert run(load(2, kv=1.0), 2).memory.changes == (Change(NOW, 2, 4),)
    assert run(load(2, kv=0.5), 2).memory.changes == ()


def test_memory_does_not_grow_with_the_number_of_calls():
    memory = seasoned()
    for step in range(1000):
        memory = decide(load(1), POLICY, 1, memory, NOW + step / 10).memory
    assert len(memory.recommendations) <= POLICY.down_window + 2


def test_calls_within_a_second_keep_the_extremes():
    memory = run(load(4, kv=0.9), 4).memory
    memory = decide(load(4, kv=0.1), POLICY, 4, memory, NOW + 0.5).memory
    assert (memory.recommendations[-1].low, memory.recommendations[-1].high) == (1, 8)


def test_many_calls_a_second_do_not_freeze_the_past():
    """Events can trigger a reconcile several times a second; each second still ends."""
    memory = run(load(1), 1, policy=replace(POLICY, up_window=1)).memory
    for step in range(1, 7):
        decision = decide(load(1, kv=1.0, waiting=1), replace(POLICY, up_window=1), 1, memory, NOW + step * 0.4)
        memory = decision.memory
    assert decision.replicas == 2


def test_the_policy_comes_from_the_spec(raw_spec):
    autoscaling = {"minReplicas": 2, "maxReplicas": 9, "targets": {"kvUtilizationPercent": 70}}
    spec = parse_spec(raw_spec(autoscaling=autoscaling, runtime={"maxNumSeqs": 8}))
    assert spec.autoscaling is not None
    assert ScalingPolicy.of(spec, spec.autoscaling, NOW) == ScalingPolicy(2, 9, 0.7, None, 0, 300, 8)


# --- learned supply ---------------------------------------------------------------------------------------------------


def test_a_replica_that_queued_at_a_third_of_its_cache_carries_a_third():
    """Its slots or its compute end before its memory: 300 of 1000 tokens are all it holds."""
    memory = replace(seasoned(), learned=Learned(kv_tokens=300.0, prompt_rate=None, time=NOW))
    assert run(load(2, kv=0.3), 2, memory).replicas == 4
    assert run(load(2, kv=0.3), 2).replicas == 2


def test_the_waiting_tokens_are_demand():
    queued = replace(load(2, kv=0.5), waiting_tokens=1000.0)
    assert run(queued, 2).candidates["kvUtilizationPercent"] == 4


def test_a_queue_asks_for_no_more_than_the_flow_explains_once_that_is_known():
    """60 wait at one replica: 20 by the target, 61 by their tokens. 2000 tokens/s come, and it computes 1000."""
    burst = replace(
        load(1, kv=0.5, waiting=60),
        waiting_tokens=30_000.0,
        prompt_rate=1000.0,
        arrival_rate=2000.0,
        newest_rate=2000.0,
    )
    burst = replace(burst, startup_p90=60.0)
    assert run(burst, 1).limited_by == Reason.SCALE_UP_LIMIT
    memory = replace(seasoned(), learned=Learned(kv_tokens=None, prompt_rate=1000.0, time=NOW))
    known = run(burst, 1, memory)
    assert known.candidates == {"kvUtilizationPercent": 3, "waitingPerReplica": 3, "prefillTokens": 3}
    drained = run(replace(burst, arrival_rate=0.0, newest_rate=0.0), 1, memory)
    assert (drained.replicas, drained.candidates["waitingPerReplica"]) == (1, 1), "gone before a new one could help"


def test_a_first_queue_asks_for_no_more_than_what_one_has_computed_without_a_queue_explains():
    """Its limit was never seen, but 900 tokens/s of it were: 2000 that come and 250 for the queue are 2.5 replicas."""
    queue = replace(load(1, kv=0.5, waiting=60), waiting_tokens=30_000.0, startup_p90=60.0)
    queue = replace(queue, prompt_rate=900.0, arrival_rate=2000.0, newest_rate=2000.0)
    proven = replace(seasoned(), learned=Learned(proven_rate=900.0))
    assert run(queue, 1, proven).candidates == {"kvUtilizationPercent": 3, "waitingPerReplica": 3}
    assert run(queue, 1).candidates["waitingPerReplica"] == 20, "nothing was seen: what it divides to"
    hardly = replace(seasoned(), learned=Learned(proven_rate=50.0))
    assert run(queue, 1, hardly).candidates["waitingPerReplica"] == 20, "seen at rest: explains anything"


def test_a_lump_of_long_prompts_is_no_jump_of_what_arrives():
    """3000 tokens/s in 10 s where 2000 come in a minute: 6 prompts of 5000 for 4 are chance, 100 of 300 for 67 not."""
    memory = replace(seasoned(), learned=Learned(kv_tokens=None, prompt_rate=1000.0, time=NOW))
    queue = replace(load(2, kv=0.5), startup_p90=60.0, arrival_rate=2000.0, newest_rate=3000.0)
    long, short = (replace(queue, waiting=number, waiting_tokens=15_000.0) for number in (3.0, 50.0))
    assert run(long, 2, memory).candidates["prefillTokens"] == 3
    assert run(short, 2, memory).candidates["prefillTokens"] == 4


def test_a_first_look_at_a_limit_does_not_take_back_what_was_computed_without_a_queue():
    calm, full = replace(load(2), busiest_rate=900.0), replace(load(2, waiting=9), saturated=1)
    memory = decide(calm, POLICY, 2, seasoned(), NOW).memory
    assert memory.learned == Learned(proven_rate=900.0)
    low, high = (decide(replace(full, saturated_rate=rate), POLICY, 2, memory, NOW + 5).memory for rate in (400, 1000))
    assert (low.learned.prompt_rate, high.learned.prompt_rate) == (900, 1000)
    again = decide(replace(full, saturated_rate=400.0), POLICY, 2, low, NOW + 10).memory
    assert again.learned.prompt_rate == 650, "further looks count as ever"


def test_prompts_beyond_what_the_rest_computes_keep_a_replica():
    memory = replace(seasoned(), learned=Learned(kv_tokens=None, prompt_rate=1000.0, time=NOW))
    policy = replace(POLICY, kv_target=None)
    busy = replace(load(3), prompt_rate=1650.0)
    assert run(busy, 3, memory, policy).replicas == 3
    assert run(replace(busy, prompt_rate=1500.0), 3, memory, policy).replicas == 2


# --- latency ----------------------------------------------------------------------------------------------------------

SLO = replace(POLICY, ttft_p95=1.0, itl_p95=0.1)


def test_a_latency_beyond_its_limit_adds_replicas_in_proportion():
    slow = replace(load(4, kv=0.5), ttft_p95=1.5)
    decision = run(slow, 4, policy=SLO)
    assert (decision.replicas, decision.reason, decision.candidates["ttftP95"]) == (6, Reason.SLO_VIOLATED, 6)


def test_a_wait_in_the_queue_is_a_latency_as_the_others():
    policy = replace(POLICY, queue_wait_p95=1.0)
    decision = run(replace(load(4, kv=0.5), queue_wait_p95=1.5), 4, policy=policy)
    assert (decision.replicas, decision.reason, decision.candidates["queueWait"]) == (6, Reason.SLO_VIOLATED, 6)
    assert "queueWait" not in run(replace(load(4, kv=0.5), queue_wait_p95=1.5), 4, policy=SLO).candidates
    near = replace(load(4, kv=0.3), queue_wait_p95=0.61)
    assert run(near, 4, seasoned(high=3), policy).replicas == 4
    assert run(replace(near, queue_wait_p95=0.3), 4, seasoned(high=3), policy).replicas == 3


def test_a_latency_that_more_replicas_do_not_shorten_does_not_add_them_for_ever():
    """At most twice what the load itself asks for: an unreachable limit must not cost everything."""
    slow = replace(load(4, kv=0.05), ttft_p95=30.0)
    assert run(slow, 4, seasoned(high=4), policy=SLO).replicas == 4
    assert run(slow, 4, policy=SLO).candidates["ttftP95"] == 2


def test_latencies_from_before_the_last_increase_ask_for_nothing_more():
    slow = replace(load(4, kv=0.5), itl_p95=0.3)
    recent = seasoned(changes=(Change(NOW - 30, 2, 4),))
    assert run(slow, 4, recent, SLO).replicas == 4
    assert run(slow, 4, seasoned(changes=(Change(NOW - 61, 2, 4),)), SLO).replicas == 8


def test_a_step_down_that_would_break_a_latency_is_not_taken():
    near = replace(load(4, kv=0.3), ttft_p95=0.61)
    decision = run(near, 4, seasoned(high=3), SLO)
    assert (decision.replicas, decision.candidates["ttftP95"]) == (4, 4)
    assert run(replace(near, ttft_p95=0.3), 4, seasoned(high=3), SLO).replicas == 3


def test_a_latency_that_fewer_replicas_would_not_lengthen_blocks_nothing():
    """One request at a time takes as long on one replica as on four."""
    assert run(replace(load(4, kv=0.01), ttft_p95=0.9), 4, policy=SLO).replicas == 3


# --- forecast ---------------------------------------------------------------------------------------------------------


def follow(rates: Iterable[float], learned: Learned = NOTHING_LEARNED, **others: float) -> Decision:
    """What is decided after arrivals of so many tokens/s, 5 s apart; KV use is half of two replicas' target."""
    memory, policy = replace(seasoned(), learned=learned), replace(POLICY, waiting_target=None)
    for step, rate in enumerate(rates):
        signals = replace(load(2, kv=0.5), newest_rate=rate, startup_p90=60.0, **others)
        decision = decide(signals, policy, 2, memory, NOW + 5 * step)
        memory = decision.memory
    return decision


def ramp(per_second: float, noise: float = 0.0) -> Decision:
    """Two minutes of arrivals that grow by so many tokens/s each second."""
    return follow(1000.0 + per_second * 5 * step + noise * (-1) ** step for step in range(25))


def test_a_growing_load_is_met_before_it_is_there():
    decision = ramp(per_second=10)
    assert (decision.replicas, decision.reason) == (3, Reason.LOAD_GROWS)
    assert decision.candidates["forecast"] == 3
    assert decision.candidates["kvUtilizationPercent"] == 2


def test_noise_is_not_growth():
    assert "forecast" not in ramp(per_second=0.2, noise=300).candidates


@pytest.mark.parametrize("before", range(13, 17))
@pytest.mark.parametrize("through", [(2000.0,), (1667.0, 2333.0), (1500.0, 2000.0, 2500.0)])
def test_a_load_that_has_jumped_does_not_go_on_to_grow(before, through):
    """From 1000 to 3000 tokens/s, seen through windows that the jump passes: a line fits well, and a jump better."""
    rates = [*[1000.0] * before, *through, *[3000.0] * 25][:25]
    assert "forecast" not in follow(rates).candidates


def test_what_waits_does_not_grow():
    """2200 tokens/s, 600 more in a minute, and 48,000 that wait, within two: 4 replicas of 800. Grown as well, 5."""
    waits = {"waiting": 3.0, "waiting_tokens": 48_000.0}
    memory = Learned(kv_tokens=None, prompt_rate=1000.0, time=NOW)
    decision = follow((1000.0 + 50 * step for step in range(25)), learned=memory, arrival_rate=2200.0, **waits)
    assert (2200 + 48_000 / 120) * 2800 / 2200 > 4 * 800
    assert decision.candidates["forecast"] == 4


def test_what_replicas_that_go_do_to_the_rates_is_not_growth():
    """What comes to one that goes is missing at first, and the sum catches up 20 s later."""
    memory, policy = seasoned(), replace(POLICY, waiting_target=None)
    for step in range(16):
        ready, rate = (3, 1000.0) if step < 10 else (2, 700.0 + 60.0 * (step - 10))
        signals = replace(load(ready, kv=0.5), newest_rate=rate, startup_p90=60.0)
        decision = decide(signals, policy, ready, memory, NOW + 5 * step)
        memory = decision.memory
        assert "forecast" not in decision.candidates


def test_the_forecast_is_bounded():
    assert ramp(per_second=1e6).candidates["forecast"] == 3


# --- nodes, clocks, restarts ------------------------------------------------------------------------------------------


def test_replicas_without_a_node_stop_further_ones_and_say_so():
    decision = run(replace(load(2, kv=1.0), unschedulable=1), 3)
    assert (decision.replicas, decision.limited_by) == (3, Reason.NO_CAPACITY)
    assert "1 replicas find no node" in decision.message


def test_replicas_without_a_node_never_block_a_scale_down():
    assert run(replace(load(2, kv=0.1), unschedulable=2), 4).replicas == 3


def test_a_clock_that_jumps_ahead_is_no_window_that_was_seen():
    busy = run(load(6, kv=0.5), 6)
    jumped = decide(load(6), POLICY, 6, busy.memory, NOW + GAP_SECONDS + 3600)
    assert (jumped.replicas, jumped.reason) == (6, Reason.OBSERVING)


def test_a_clock_that_jumps_back_keeps_the_limits():
    up = run(load(3, waiting=150), 3, policy=replace(POLICY, max_replicas=100))
    back = decide(load(3, waiting=150), replace(POLICY, max_replicas=100), 7, up.memory, NOW - 3600)
    assert back.replicas == 7
    idle = decide(load(7), POLICY, 7, back.memory, NOW - 3595)
    assert idle.replicas == 7


def test_every_limiter_that_was_met_is_told():
    decision = run(load(3, waiting=150), 3, policy=replace(POLICY, max_replicas=6, affordable=5))
    assert decision.limiters == (Reason.SCALE_UP_LIMIT, Reason.TOO_MANY_REPLICAS, Reason.BUDGET_EXHAUSTED)


def test_the_down_window_is_at_least_two_start_ups():
    """What is taken away too early is missing for as long as a start takes."""
    memory = ScalerMemory(since=0.0, recommendations=(Recommendation(NOW - 90, 1, 9), Recommendation(NOW - 80, 1, 1)))
    assert run(load(9), 9, memory).replicas == 8
    slow = run(replace(load(9), startup_p90=50.0), 9, memory)
    assert (slow.replicas, slow.reason) == (9, Reason.SCALE_DOWN_STABILIZED)
