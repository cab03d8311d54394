"""Whatever arrives, leaves or is preempted: the books agree after every step, and everyone gets exactly its tokens."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from octavo_runtime.core.batch import SamplingParams, SamplingRow
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.keys import root_key
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import FinishReason, Sequence
from octavo_runtime.engine.execution import Execution, OverlappedExecution
from octavo_runtime.runner.sim_runner import SimRunner, continuation

VOCAB = 50
NUM_BLOCKS = 12
BLOCK_SIZE = 4
BUDGET = 10
MAX_SEQS = 5
STEPS = int(os.environ.get("OCTAVO_SCHEDULER_STEPS", "2400"))  # of the state machine, at most; 100000 take ten minutes

blocks = st.sampled_from([[1] * BLOCK_SIZE, [2] * BLOCK_SIZE])  # the same contents after different ones
prompts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=NUM_BLOCKS * BLOCK_SIZE // 2) | st.lists(
    blocks, min_size=1, max_size=NUM_BLOCKS // 2
).map(lambda parts: [token for part in parts for token in part])
params = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, NUM_BLOCKS * BLOCK_SIZE // 2),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 3),
    stop_token_ids=st.frozensets(st.integers(0, VOCAB - 1), max_size=3),
    min_tokens=st.integers(0, 4),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.5]),  # the runner ignores it, the scheduler does not
    logprobs=st.none() | st.integers(0, 2),
    prompt_logprobs=st.none() | st.integers(0, 2),
)

tenants = st.sampled_from(["", "a", "b"])
timeouts = st.none() | st.floats(0, 60)


def expected(prompt, params):
    """The tokens that a sequence must get, and why it must end: computed alone, with neither scheduler nor cache."""
    rows = [
        SamplingRow(
            temperature=params.temperature,
            top_p=1.0,
            top_k=0,
            seed=params.seed,
            position=len(prompt) + index,
            forbidden=params.stop_token_ids if index < params.min_tokens else frozenset(),
        )
        for index in range(params.max_tokens)
    ]
    tokens = continuation(prompt, rows, VOCAB)
    for index, token in enumerate(tokens):
        if token in params.stop_token_ids:
            return tokens[: index + 1], FinishReason.STOP
    return tokens, FinishReason.LENGTH


class FaultyRunner(SimRunner):
    """Raises once each time that it is told to, when a step is launched or when its result is due. The step then leaves
    nothing in the cache, or all that it wrote, and is computed again without a fault.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.faults = []
        self.complaints = []  # of a batch that contradicts itself or the cache, which the engine would compute again

    def compute(self, batch):
        try:
            return super().compute(batch)
        except Exception as error:
            self.complaints.append(error)
            raise

    def launch(self, batch):
        fault = self.faults.pop() if self.faults else None
        if fault == "launch":
            raise RuntimeError("not launched")
        launched = super().launch(batch)
        return FailedStep() if fault == "wait" else launched


class FailedStep:
    def wait(self):
        raise RuntimeError("computed, and lost")


class Engine:
    """The step loop, and what each sequence got from it. The runner's cache finds every stale or foreign block."""

    def __init__(self, num_blocks=NUM_BLOCKS, watermark=0.1, project_peak=False, ahead=False, **options):
        pool = BlockPool(num_blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(
            pool,
            max_num_seqs=MAX_SEQS,
            max_num_batched_tokens=BUDGET,
            watermark=watermark,
            project_peak=project_peak,
            **options,
        )
        self.runner = FaultyRunner(num_blocks, BLOCK_SIZE, VOCAB)
        self.execution = (OverlappedExecution if ahead else Execution)(self.runner, self.scheduler, pool)
        self.now = 0.0
        self.requests = {}
        self.got = {}
        self.logprobs = {}
        self.prompt_logprobs = {}
        self.finished = {}

    def add(self, prompt, params, *, tenant="", timeout=None, **fields):
        seq_id = len(self.requests)
        self.requests[seq_id] = (list(prompt), params)
        self.got[seq_id] = []
        self.logprobs[seq_id] = []
        self.prompt_logprobs[seq_id] = []
        self.scheduler.add(
            Sequence(
                seq_id,
                list(prompt),
                params,
                tenant=tenant,
                arrived_at=self.now,
                deadline=None if timeout is None else self.now + timeout,
                root_key=root_key(tenant, ""),
                **fields,
            )
        )
        return seq_id

    def step(self):
        self.now += 1.0
        plan = self.scheduler.schedule(self.now)
        assert plan.num_tokens <= BUDGET
        assert plan.num_tokens > 0 or self.execution.busy or not self.scheduler.has_work, "a step without progress"
        for seq_id in plan.expired:
            self.finished[seq_id] = FinishReason.DEADLINE
        self.scheduler.check_integrity()
        self._compute(plan)
        self.scheduler.check_integrity()

    def _compute(self, plan):
        outputs, failed = self.execution.run(plan)
        assert not failed, "a step that fails once fails nobody"
        assert not self.runner.complaints
        for output in outputs.each():
            assert output.seq_id not in self.finished, "a token after the end"
            self.got[output.seq_id] += output.tokens
            self.logprobs[output.seq_id] += [entry.token for entry in output.logprobs or ()]
            self.prompt_logprobs[output.seq_id] += [entry.token for entry in output.prompt_logprobs or ()]
            if output.finish_reason:
                self.finished[output.seq_id] = output.finish_reason

    @property
    def has_work(self):
        return self.scheduler.has_work or self.execution.busy

    def run(self):
        while self.has_work:
            self.step()

    def check_finished(self):
        for seq_id, reason in self.finished.items():
            tokens, natural_reason = expected(*self.requests[seq_id])
            if reason is FinishReason.DEADLINE:
                tokens, natural_reason = tokens[: len(self.got[seq_id])], reason
            assert (self.got[seq_id], reason) == (tokens, natural_reason)
            self._check_logprobs(seq_id)

    def _check_logprobs(self, seq_id):
        """One for each token of the answer and each of the prompt but the first, once, where they were asked for."""
        prompt, params = self.requests[seq_id]
        assert self.logprobs[seq_id] == (self.got[seq_id] if params.logprobs is not None else [])
        if self.got[seq_id]:
            assert self.prompt_logprobs[seq_id] == (prompt[1:] if params.prompt_logprobs is not None else [])


class SchedulerMachine(RuleBasedStateMachine):
    """Arrivals, aborts, failures and steps in any order, in a pool so small that preemption and eviction are common;
    steps are computed at once, or each planned while the one before it is computed.
    """

    def __init__(self):
        super().__init__()
        self.engine = None
        self.live = set()

    @initialize(caching=st.booleans(), ngram=st.sampled_from([0, 0, 3]), peak=st.booleans(), ahead=st.booleans())
    def start(self, caching, ngram, peak, ahead):
        self.engine = Engine(prefix_caching=caching, speculative_ngram=ngram, project_peak=peak, ahead=ahead)

    @rule(prompt=prompts, params=params, tenant=tenants, priority=st.integers(-2, 2), timeout=timeouts)
    def arrive(self, prompt, params, tenant, priority, timeout):
        self.live.add(self.engine.add(prompt, params, tenant=tenant, priority=priority, timeout=timeout))

    @rule(shared=st.integers(1, 5), tails=st.lists(prompts, min_size=1, max_size=4), params=params, tenant=tenants)
    def arrive_together(self, shared, tails, params, tenant):
        """A burst of prompts with the same start."""
        for tail in tails:
            prompt = [*range(shared * BLOCK_SIZE), *tail][: NUM_BLOCKS * BLOCK_SIZE // 2]
            self.live.add(self.engine.add(prompt, params, tenant=tenant))

    @rule(data=st.data(), params=params)
    def continue_a_conversation(self, data, params):
        """The prompt and answer of an earlier request, and more."""
        if self.engine.finished:
            seq_id = data.draw(st.sampled_from(sorted(self.engine.finished)))
            prompt = self.engine.requests[seq_id][0] + self.engine.got[seq_id] + [1]
            self.live.add(self.engine.add(prompt[: NUM_BLOCKS * BLOCK_SIZE // 2], params))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), fails=st.booleans())
    def abort(self, data, fails):
        seq_id = data.draw(st.sampled_from(sorted(self.live)))
        self.live.discard(seq_id)
        if fails:
            self.engine.scheduler.fail(seq_id)
        else:
            assert self.engine.scheduler.abort(seq_id)

    @rule(fault=st.sampled_from(["launch", "wait"]))
    def spoil_the_next_step(self, fault):
        self.engine.runner.faults = [fault]

    @rule(count=st.integers(1, 6))
    def step(self, count):
        for _ in range(count):
            self.engine.step()
        self.live -= self.engine.finished.keys()

    @invariant()
    def books_agree(self):
        if self.engine is not None:
            self.engine.scheduler.check_integrity()
            assert set(self.engine.scheduler.sequences) == self.live

    @invariant()
    def tokens_so_far_are_right(self):
        for seq_id in self.live:
            prompt, params = self.engine.requests[seq_id]
            got = self.engine.got[seq_id]
            assert got == expected(prompt, params)[0][: len(got)]

    def teardown(self):
        if self.engine is None:
            return
        self.engine.runner.faults = []
        self.engine.run()
        self.engine.check_finished()
        stats = self.engine.scheduler.stats()
        assert (stats.kv_tokens_used, stats.running, stats.waiting, stats.waiting_tokens) == (0, 0, 0, 0)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=max(STEPS // 40, 1), stateful_step_count=40, deadline=None)


@settings(deadline=None)
@given(st.lists(st.tuples(prompts, params), min_size=1, max_size=12), st.integers(NUM_BLOCKS, 60), st.booleans())
def test_every_sequence_gets_exactly_its_tokens_whatever_the_pool(requests, num_blocks, ahead):
    engine = Engine(num_blocks, ahead=ahead)
    for prompt, request_params in requests:
        engine.add(prompt, request_params)
    engine.run()
    assert len(engine.finished) == len(requests)
    engine.check_finished()


@pytest.mark.parametrize("ahead", [False, True])
def test_the_small_pool_of_these_tests_does_force_preemptions(ahead):
    engine = Engine(ahead=ahead)
    for seed in range(12):
        engine.add([seed] * 5, SamplingParams(max_tokens=24, seed=seed))
    engine.run()
    engine.check_finished()
    assert len(engine.finished) == 12
    assert engine.scheduler.stats().preemptions >= 10
