"""Whatever arrives, leaves or is preempted: the books agree after every step, and everyone gets exactly its tokens."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from octavo_runtime.core.batch import SamplingParams, SamplingRow
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.layout import flatten
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import FinishReason, Sequence
from octavo_runtime.runner.sim_runner import SimRunner, continuation

VOCAB = 50
NUM_BLOCKS = 12
BLOCK_SIZE = 4
BUDGET = 10
MAX_SEQS = 5

prompts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=NUM_BLOCKS * BLOCK_SIZE // 2)
params = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, NUM_BLOCKS * BLOCK_SIZE // 2),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 3),
    stop_token_ids=st.frozensets(st.integers(0, VOCAB - 1), max_size=3),
    min_tokens=st.integers(0, 4),
)


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


class Engine:
    """The step loop, and what each sequence got from it."""

    def __init__(self, num_blocks=NUM_BLOCKS, watermark=0.1):
        pool = BlockPool(num_blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(pool, max_num_seqs=MAX_SEQS, max_num_batched_tokens=BUDGET, watermark=watermark)
        self.runner = SimRunner(num_blocks, BLOCK_SIZE, VOCAB)
        self.requests = {}
        self.got = {}
        self.finished = {}

    def add(self, prompt, params):
        seq_id = len(self.requests)
        self.requests[seq_id] = (list(prompt), params)
        self.got[seq_id] = []
        self.scheduler.add(Sequence(seq_id, list(prompt), params))

    def step(self):
        plan = self.scheduler.schedule()
        assert plan.num_tokens <= BUDGET
        assert plan.num_tokens > 0 or not self.scheduler.has_work, "a step without progress"
        batch = flatten(plan, self.scheduler.sequences, BLOCK_SIZE)
        for output in self.scheduler.update(plan, self.runner.execute(batch)):
            assert output.seq_id not in self.finished, "a token after the end"
            self.got[output.seq_id] += output.tokens
            if output.finish_reason:
                self.finished[output.seq_id] = output.finish_reason
        self.scheduler.check_integrity()

    def run(self):
        while self.scheduler.has_work:
            self.step()

    def check_finished(self):
        for seq_id, reason in self.finished.items():
            assert (self.got[seq_id], reason) == expected(*self.requests[seq_id])


class SchedulerMachine(RuleBasedStateMachine):
    """Arrivals, aborts and steps in any order, in a pool so small that preemption is common."""

    def __init__(self):
        super().__init__()
        self.engine = Engine()
        self.live = set()

    @rule(prompt=prompts, params=params)
    def arrive(self, prompt, params):
        self.live.add(len(self.engine.requests))
        self.engine.add(prompt, params)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data):
        seq_id = data.draw(st.sampled_from(sorted(self.live)))
        self.live.discard(seq_id)
        assert self.engine.scheduler.abort(seq_id)

    @rule(count=st.integers(1, 6))
    def step(self, count):
        for _ in range(count):
            self.engine.step()
        self.live -= self.engine.finished.keys()

    @invariant()
    def books_agree(self):
        self.engine.scheduler.check_integrity()
        assert set(self.engine.scheduler.sequences) == self.live

    @invariant()
    def tokens_so_far_are_right(self):
        for seq_id in self.live:
            prompt, params = self.engine.requests[seq_id]
            got = self.engine.got[seq_id]
            assert got == expected(prompt, params)[0][: len(got)]

    def teardown(self):
        self.engine.run()
        self.engine.check_finished()
        stats = self.engine.scheduler.stats()
        assert (stats.kv_tokens_used, stats.running, stats.waiting, stats.waiting_tokens) == (0, 0, 0, 0)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@settings(deadline=None)
@given(st.lists(st.tuples(prompts, params), min_size=1, max_size=12), st.integers(NUM_BLOCKS, 60))
def test_every_sequence_gets_exactly_its_tokens_whatever_the_pool(requests, num_blocks):
    engine = Engine(num_blocks)
    for prompt, request_params in requests:
        engine.add(prompt, request_params)
    engine.run()
    assert len(engine.finished) == len(requests)
    engine.check_finished()


def test_the_small_pool_of_these_tests_does_force_preemptions():
    engine = Engine()
    for seed in range(12):
        engine.add([seed] * 5, SamplingParams(max_tokens=24, seed=seed))
    engine.run()
    engine.check_finished()
    assert len(engine.finished) == 12
    assert engine.scheduler.stats().preemptions >= 10
