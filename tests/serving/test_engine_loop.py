"""The engine's loop: what it says, and that it gives signs of life."""

import os

import pytest

from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.loop import IDLE_TICK, Loop
from octavo_runtime.engine.messages import Abort, Add, Stop
from octavo_runtime.engine.state_page import EngineState, Phase, StatePage
from octavo_runtime.engine.step import Engine
from octavo_runtime.runner.sim_runner import SimRunner


class ScriptedChannel:
    """Gives out messages turn by turn, then says stop; notes what the page said and what was sent at each turn."""

    def __init__(self, page, *turns):
        self.page, self.turns = page, list(turns)
        self.waits, self.states, self.sent, self.steps_on_page = [], [], [], []

    def receive(self, wait):
        self.waits.append(wait)
        self.states.append(self.page.read())
        return self.turns.pop(0) if self.turns else [Stop()]

    def send(self, message):
        self.sent.append(message)
        self.steps_on_page.append(self.page.read().steps)


@pytest.fixture
def page():
    fd = StatePage.create_fd()
    yield StatePage(fd)
    os.close(fd)


def run(page, *turns, **options):
    engine = Engine(SimRunner(8, 4, 50), max_num_seqs=4, max_num_batched_tokens=16, **options)
    channel = ScriptedChannel(page, *turns)
    Loop(engine, channel, page, EngineState(weights_seconds=2.5)).run()
    return channel


def test_an_idle_engine_waits_a_tick_and_then_gives_a_sign_of_life(page):
    channel = run(page, [], [], [])
    assert channel.waits == [IDLE_TICK] * 4
    beats = [state.beat for state in channel.states]
    assert beats == sorted(set(beats)), "each later than the one before"
    assert channel.sent == []


def test_it_is_ready_from_the_start_and_keeps_the_times_of_the_start(page):
    state = run(page).states[0]
    assert (state.phase, state.progress, state.weights_seconds) == (Phase.READY, 1.0, 2.5)
    assert state.kv_tokens_capacity == 32


def test_a_busy_engine_does_not_wait_and_sends_one_message_per_step(page):
    channel = run(page, [Add(1, [1, 2, 3], SamplingParams(3)), Add(2, [4], SamplingParams(2))], [], [], [])
    assert channel.waits == [IDLE_TICK, 0.0, 0.0, IDLE_TICK, IDLE_TICK]
    assert [len(list(message.each_output())) for message in channel.sent] == [2, 2, 1]
    assert [state.steps for state in channel.states] == [0, 1, 2, 3, 3]
    assert [state.running for state in channel.states] == [0, 2, 1, 0, 0]
    assert channel.states[1].kv_tokens_used == 8


def test_an_engine_that_plans_ahead_is_busy_until_its_last_step_is_taken(page):
    requests = [Add(1, [1, 2, 3], SamplingParams(3)), Add(2, [4], SamplingParams(2))]
    channel = run(page, requests, [], [], [], [], plan_ahead=True)
    assert channel.waits == [IDLE_TICK, 0.0, 0.0, 0.0, IDLE_TICK, IDLE_TICK]
    assert [len(list(message.each_output())) for message in channel.sent] == [0, 2, 2, 1]
    assert [message.admitted for message in channel.sent] == [[1, 2], [], [], []]
    assert [state.steps for state in channel.states] == [0, 0, 1, 2, 3, 3]


def test_what_is_under_way_for_nobody_is_waited_for_and_dropped(page):
    channel = run(page, [Add(1, [1], SamplingParams(9))], [Abort(1)], [], plan_ahead=True)
    assert channel.waits == [IDLE_TICK, 0.0, IDLE_TICK, IDLE_TICK]
    assert [len(list(message.each_output())) for message in channel.sent] == [0, 0]
    assert channel.states[-1].kv_tokens_used == 0


def test_the_page_knows_of_a_step_before_anybody_has_its_tokens(page):
    channel = run(page, [Add(1, [1, 2, 3], SamplingParams(2))], [], [])
    assert channel.steps_on_page == [1, 2]


def test_an_abort_takes_effect_before_the_next_step(page):
    channel = run(page, [Add(1, [1], SamplingParams(9))], [Abort(1)], [])
    assert len(channel.sent) == 1
    assert channel.states[-1].running == 0


def test_stop_is_obeyed_with_work_left(page):
    channel = run(page, [Add(1, [1], SamplingParams(9))], [Stop()], [])
    assert len(channel.sent) == 1
    assert channel.turns == [[]]
