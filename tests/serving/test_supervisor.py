"""One engine after the other, without processes: what clients of it see."""

import asyncio
from pathlib import Path

import pytest

from octavo_runtime import errors
from octavo_runtime.config import ServeConfig
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.core.outputs import Output
from octavo_runtime.engine import restarts, supervisor
from octavo_runtime.engine.client import EngineClient
from octavo_runtime.engine.messages import Add, Started, StepDone
from octavo_runtime.engine.state_page import EngineState, Phase
from octavo_runtime.metrics import RequestMetrics

LIMITS = Started(max_model_len=100, vocab_size=50, num_blocks=10, block_size=16)


class FakeEngine:
    """An engine that loads and dies when the test says so."""

    def __init__(self, config, *, on_started, on_step):
        if (error := FakeEngine.spawn_errors.pop() if FakeEngine.spawn_errors else None) is not None:
            raise error
        FakeEngine.made.append(self)
        self.model = config.model
        self.limits = None
        self.ended = asyncio.get_running_loop().create_future()
        self.page = EngineState(beat=1e12)
        self.sent = []
        self.closed = False
        self._on_started, self.step = on_started, on_step

    def load(self, limits=LIMITS):
        self.limits = limits
        self.page = self.page._replace(phase=Phase.READY)
        self._on_started(limits)

    def die(self, error=None):
        self.ended.set_result(error or errors.EngineFailed("the engine process ended with status -9"))

    def state(self):
        assert not self.closed
        return self.page

    def send(self, message):
        assert not self.closed
        self.sent.append(message)

    async def close(self):
        self.closed = True


@pytest.fixture
def engines(monkeypatch):
    FakeEngine.made, FakeEngine.spawn_errors = [], []
    monkeypatch.setattr(supervisor, "Incarnation", FakeEngine)
    monkeypatch.setattr(restarts, "_FIRST_DELAY", 0.001)
    return FakeEngine.made


@pytest.fixture
async def client(engines):
    client = EngineClient(ServeConfig(Path("m"), max_engine_restarts=3), RequestMetrics())
    client.supervisor.start(Path("fetched"))
    await until(lambda: engines)
    yield client
    await client.supervisor.close()
    assert all(engine.closed for engine in engines)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  the test has no event for everything
            await asyncio.sleep(0)


async def replaced(engines):
    """Kill the newest engine and wait for the next."""
    count = len(engines)
    engines[-1].die()
    await until(lambda: len(engines) == count + 1)


def submit(client, num_prompt=3, max_tokens=5):
    return client.submit([1] * num_prompt, SamplingParams(max_tokens=max_tokens))


async def test_requests_are_put_off_until_the_model_is_loaded(client, engines):
    with pytest.raises(errors.ModelLoading):
        submit(client)
    engines[0].load()
    assert (await client.supervisor.started) == LIMITS
    assert submit(client).request_id == engines[0].sent[0].request_id


async def test_a_death_fails_what_runs_and_the_next_engine_serves_under_new_ids(client, engines):
    engines[0].load()
    lost = client.supervisor.lost
    running = submit(client)
    await replaced(engines)
    assert lost.done()
    assert not client.supervisor.started.done()
    with pytest.raises(errors.EngineDied):
        await running.get(1)
    with pytest.raises(errors.ModelLoading):
        submit(client)
    engines[1].load()
    again = submit(client)
    assert again.request_id > running.request_id
    assert [type(message) for message in engines[1].sent] == [Add]
    assert {engine.model for engine in engines} == {Path("fetched")}


async def test_late_news_of_a_dead_engine_reaches_nobody(client, engines):
    engines[0].load()
    before = submit(client)
    await replaced(engines)
    engines[1].load()
    after = submit(client)
    late = [Output(slot.request_id, [7], None) for slot in (before,)]
    engines[0].step(StepDone(0.0, [before.request_id], late, [], [], [], [0]))
    with pytest.raises(errors.EngineDied):
        await before.get(1)
    assert (await after.get(0.001)).tokens == ()


async def test_an_abort_between_two_engines_is_no_error(client, engines):
    engines[0].load()
    slot = submit(client)
    await replaced(engines)
    client.abort(slot)
    assert engines[1].sent == []


async def test_an_engine_is_thought_to_hang_from_the_moment_at_which_it_passes_the_limit(client, engines):
    engines[0].page = engines[0].page._replace(beat=1000.0)
    assert client.supervisor.problem(1600.0) is None
    assert "601 s in phase process" in client.supervisor.problem(1601.0)
    engines[0].load()
    assert client.supervisor.problem(1060.0) is None
    assert "61 s in phase ready" in client.supervisor.problem(1061.0)


async def test_totals_go_on_and_gauges_start_anew(client, engines):
    engines[0].load()
    engines[0].page = engines[0].page._replace(steps=5, running=2)
    await replaced(engines)
    engines[1].page = engines[1].page._replace(steps=2)
    assert (client.state().steps, client.state().running) == (7, 0)


async def test_a_start_that_fails_later_is_tried_again_and_a_process_that_cannot_be_made_is_such_a_start(
    client, engines
):
    engines[0].load()
    FakeEngine.spawn_errors = [OSError("no memory for a process")]
    await replaced(engines)
    assert client.supervisor.problem(0.0) is None
    await replaced(engines)
    engines[2].load()
    submit(client)


async def test_after_too_many_deaths_there_is_no_other(client, engines):
    for _ in range(3):
        engines[-1].load()
        await replaced(engines)
    engines[-1].load()
    slot = submit(client)
    engines[-1].die()
    error = await client.supervisor.died
    assert isinstance(error, errors.EngineFailed)
    assert "status -9; it ended 4 times" in str(error)
    assert "4 times" in client.supervisor.problem(0.0)
    with pytest.raises(errors.EngineDied):
        await slot.get(1)


async def test_a_first_start_that_fails_ends_with_its_own_reason(client, engines):
    engines[0].die(errors.ModelUnsupported("no such architecture"))
    error = await client.supervisor.died
    assert isinstance(error, errors.ModelUnsupported)
    assert str(error) == "no such architecture"


async def test_an_engine_that_comes_back_with_less_room_does_not_get_what_was_checked_for_the_old(client, engines):
    engines[0].load()
    await replaced(engines)
    engines[1].load(Started(max_model_len=20, vocab_size=50, num_blocks=2, block_size=16))
    with pytest.raises(errors.ContextLengthExceeded, match="this server takes 20"):
        submit(client, num_prompt=30)


async def test_an_engine_that_ends_when_there_will_be_no_new_work_is_not_replaced(client, engines):
    engines[0].load()
    running = submit(client)
    client.supervisor.retire()
    engines[0].die()
    await until(client.supervisor._task.done)
    with pytest.raises(errors.EngineDied):
        await running.get(1)
    assert len(engines) == 1
    assert not client.supervisor.died.done(), "a drain that lost its engine is none that failed"
    assert client.supervisor.problem(0.0) is None


async def test_closing_while_a_restart_waits_ends_it(client, engines, monkeypatch):
    monkeypatch.setattr(restarts, "_FIRST_DELAY", 1000.0)
    engines[0].load()
    FakeEngine.spawn_errors = [OSError("no memory for a process")]
    engines[0].die()
    await until(lambda: engines[0].closed and not FakeEngine.spawn_errors)
    await asyncio.wait_for(client.supervisor.close(), 20)
    client.supervisor._closing = asyncio.get_running_loop().create_future()  # the fixture closes once more
