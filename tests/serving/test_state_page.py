"""The engine's state in shared memory: always whole, whoever is stopped."""

import os
import threading

import pytest

from octavo_runtime.engine.state_page import EngineState, Phase, StatePage


@pytest.fixture
def page_fd():
    fd = StatePage.create_fd()
    yield fd
    os.close(fd)


def test_a_new_page_holds_the_initial_state(page_fd):
    assert StatePage(page_fd).read() == EngineState()


def test_what_one_mapping_writes_another_reads(page_fd):
    writer, reader = StatePage(page_fd), StatePage(page_fd)
    state = EngineState(Phase.READY, 1.0, 2.0, *range(3, 16), 12.0, 13.0, 14.0)
    for steps in range(5):
        writer.write(state._replace(steps=steps))
        assert reader.read() == state._replace(steps=steps)


def test_a_second_writer_goes_on_where_the_first_left_off(page_fd):
    StatePage(page_fd).write(EngineState(steps=1))
    StatePage(page_fd).write(EngineState(steps=2))
    assert StatePage(page_fd).read().steps == 2


def test_a_writer_that_was_stopped_in_the_middle_leaves_the_last_whole_state(page_fd):
    page = StatePage(page_fd)
    for steps in (1, 2):
        page.write(EngineState(steps=steps))
    newest = (page._sequence % 2) * 256
    page._memory[newest + 20 : newest + 40] = b"\xff" * 20
    assert page.read().steps == 1


def test_readers_never_see_half_a_state(page_fd):
    writer, reader = StatePage(page_fd), StatePage(page_fd)
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            writer.write(EngineState(steps=number, running=number % 1000, generation_tokens=number, beat=float(number)))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        last = 0
        while last < 20_000:
            state = reader.read()
            assert state.steps == state.generation_tokens == state.beat
            assert state.running == state.steps % 1000
            assert state.steps >= last
            last = state.steps
    finally:
        stop.set()
        thread.join()


def test_totals_go_on_where_an_earlier_engine_left_off_and_gauges_do_not():
    past = EngineState(Phase.READY, steps=10, running=3, preemptions=1, prompt_tokens=50, generation_tokens=20)
    now = EngineState(Phase.WEIGHTS, beat=5.0, steps=1, waiting=2, prompt_tokens=7).plus_totals(past)
    assert (now.steps, now.preemptions, now.prompt_tokens, now.generation_tokens) == (11, 1, 57, 20)
    assert (now.phase, now.beat, now.running, now.waiting) == (Phase.WEIGHTS, 5.0, 0, 2)


def test_usage_is_a_share_and_zero_before_there_is_a_cache():
    assert EngineState().kv_usage == 0.0
    assert EngineState(kv_tokens_used=30, kv_tokens_capacity=120).kv_usage == 0.25
