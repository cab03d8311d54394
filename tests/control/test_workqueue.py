"""The queue on a real event loop; order and overlap are checked, durations are not."""

import asyncio

import pytest

from octavo_operator.core.errors import Unavailable
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.store import Key
from octavo_operator.workqueue import FIRST_DELAY, LONGEST_DELAY, WorkQueue, jittered

A, B = Key("ns", "a"), Key("ns", "b")


@pytest.fixture
async def queue():
    return WorkQueue(Metrics(), Health(asyncio.get_running_loop().time))


@pytest.fixture
async def running(queue):
    """Starts the queue with a handler; ends it with the test."""
    tasks = []

    def start(handler, workers=4):
        tasks.append(asyncio.create_task(queue.run(handler, workers)))

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(90):
        while not condition():  # noqa: ASYNC110  the condition is any expression
            await asyncio.sleep(0.01)


async def test_many_additions_are_one_run(queue, running):
    seen = []

    async def handler(key):
        seen.append(key)

    for _ in range(100):
        queue.add(A)
    queue.add(B)
    running(handler)
    await until(lambda: B in seen)
    queue.add(B)
    await until(lambda: seen.count(B) == 2)
    assert seen.count(A) == 1


async def test_a_key_never_runs_twice_at_once_and_runs_again_if_it_was_added_meanwhile(queue, running):
    active, most, runs, gate = 0, 0, 0, asyncio.Event()

    async def handler(_):
        nonlocal active, most, runs
        active, runs = active + 1, runs + 1
        most = max(most, active)
        await gate.wait()
        active -= 1

    queue.add(A)
    running(handler)
    await until(lambda: active == 1)
    queue.add(A)
    queue.add(A)
    gate.set()
    await until(lambda: runs == 2 and active == 0)
    assert most == 1


async def test_different_keys_run_side_by_side(queue, running):
    active, gate = set(), asyncio.Event()

    async def handler(key):
        active.add(key)
        await gate.wait()

    queue.add(A)
    queue.add(B)
    running(handler)
    await until(lambda: active == {A, B})
    gate.set()


async def test_a_slow_key_does_not_take_more_than_its_worker(queue, running):
    seen, gate = [], asyncio.Event()

    async def handler(key):
        seen.append(key)
        if key == A:
            await gate.wait()

    queue.add(A)
    running(handler, workers=2)
    await until(lambda: A in seen)
    for _ in range(3):
        count = len(seen)
        queue.add(B)
        await until(lambda count=count: len(seen) > count)
    gate.set()


@pytest.mark.parametrize("error", [Unavailable("outage"), ZeroDivisionError()], ids=["expected", "bug"])
async def test_a_failed_key_comes_back_and_the_others_go_on(queue, running, error, caplog):
    seen = []

    async def handler(key):
        seen.append(key)
        if key == A and seen.count(A) == 1:
            raise error

    queue.add(A)
    queue.add(B)
    running(handler)
    await until(lambda: seen.count(A) == 2 and B in seen)
    assert any(record.levelname in ("WARNING", "ERROR") for record in caplog.records)


async def test_a_handler_can_ask_to_be_called_again(queue, running):
    runs = 0

    async def handler(_):
        nonlocal runs
        runs += 1
        return 0.05 if runs < 3 else None

    queue.add(A)
    running(handler)
    await until(lambda: runs == 3)


async def test_a_sooner_addition_outweighs_a_later_one(queue, running):
    seen = []

    async def handler(key):
        seen.append(key)

    queue.add(A, delay=3600)
    running(handler)
    queue.add(A)
    await until(lambda: seen == [A])


async def test_delays_grow_with_the_failures_up_to_the_longest_and_obey_the_server(queue):
    delays = [queue._backoff(A, None) for _ in range(30)]
    assert FIRST_DELAY / 2 <= delays[0] <= FIRST_DELAY
    assert max(delays) <= LONGEST_DELAY
    assert min(delays[-10:]) >= LONGEST_DELAY / 2
    assert queue._backoff(B, 7.0) >= 7.0


def test_jitter_keeps_within_half():
    values = [jittered(10) for _ in range(200)]
    assert 5 <= min(values) < max(values) <= 10


async def test_a_queue_that_was_cancelled_in_the_middle_can_be_run_again(queue, running):
    """As when the lead is lost and won again."""
    entered, seen, gate = [], [], asyncio.Event()

    async def handler(key):
        entered.append(key)
        await gate.wait()
        seen.append(key)

    queue.add(A)
    queue.add(B)
    first = asyncio.create_task(queue.run(handler, 1))
    await until(lambda: entered)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate.set()
    for key in (A, B):
        queue.add(key)
    running(handler)
    await until(lambda: {A, B} <= set(seen))


async def test_what_a_user_has_just_asked_for_goes_before_what_is_due(queue, running):
    seen = []

    async def handler(key):
        seen.append(key)

    events = [Key("ns", f"event-{number}") for number in range(20)]
    for key in events:
        queue.add(key)
    queue.hurry(A)
    queue.hurry(B)
    running(handler, workers=1)
    await until(lambda: len(seen) == 22)
    assert seen == [A, B, *events]


async def test_a_key_in_a_hurry_that_runs_is_run_again_and_no_more(queue, running):
    runs, gate = 0, asyncio.Event()

    async def handler(_):
        nonlocal runs
        runs += 1
        await gate.wait()

    queue.hurry(A)
    running(handler)
    await until(lambda: runs == 1)
    queue.hurry(A)
    queue.hurry(A)
    gate.set()
    await until(lambda: runs == 2)
    queue.add(B)
    await until(lambda: runs == 3)
    assert queue._urgent == {}


async def test_a_change_of_the_spec_does_not_wait_for_the_end_of_a_back_off(queue, running):
    seen = []

    async def handler(key):
        seen.append(key)
        if len(seen) == 1:
            raise Unavailable("outage", retry_after=3600)

    queue.add(A)
    running(handler)
    await until(lambda: len(seen) == 1)
    queue.hurry(A)
    await until(lambda: len(seen) == 2)
