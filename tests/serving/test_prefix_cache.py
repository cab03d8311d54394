"""Blocks that were computed for one request serve those that start alike."""

import pytest

from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.keys import extend_keys, root_key
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.runner.sim_runner import SimRunner

BLOCK = 4
PREFIX = list(range(100, 100 + 10 * BLOCK))
POISON = 999


class CountingRunner(SimRunner):
    """Notes how many tokens each step computes, and raises at a poisonous one."""

    def __init__(self, num_blocks=64):
        super().__init__(num_blocks, BLOCK, vocab_size=POISON)
        self.computed = []

    def execute(self, batch):
        if POISON in batch.token_ids:
            raise RuntimeError("poison")
        self.computed.append(len(batch.token_ids))
        return super().execute(batch)


class Harness:
    """An engine, and what its requests got."""

    def __init__(self, num_blocks=64, budget=64, **options):
        self.runner = CountingRunner(num_blocks)
        self.engine = Engine(self.runner, max_num_seqs=16, max_num_batched_tokens=budget, **options)
        self.tokens, self.cached, self.now = {}, {}, 0.0

    def add(self, request_id, prompt, max_tokens=1, *, tenant="", salt="", **params):
        own = SamplingParams(max_tokens, temperature=0.0, **params)
        self.engine.add(Add(request_id, list(prompt), own, tenant=tenant, salt=salt))

    def step(self):
        done = self.engine.step(self.now)
        self.now += 1.0
        self.cached |= dict(zip(done.admitted, done.cached, strict=True))
        for output in done.each_output():
            self.tokens.setdefault(output.seq_id, []).extend(output.tokens)
        return done

    def run(self):
        while self.engine.has_work:
            self.step()
        return self


def chain(tokens, root=b""):
    keys = []
    extend_keys(keys, root, tokens, BLOCK)
    return keys


def test_a_key_stands_for_all_tokens_up_to_the_end_of_its_block():
    keys = chain(PREFIX)
    assert len(keys) == 10
    assert chain(PREFIX[:11]) == keys[:2], "only full blocks have one"
    assert not set(chain([0, *PREFIX[1:]])) & set(keys), "a first token changes all that follow"
    assert chain([*PREFIX[:-1], 0])[:9] == keys[:9]
    assert chain(PREFIX[BLOCK:])[0] != keys[1], "the same tokens after others"


def test_keys_are_extended_and_not_computed_anew():
    keys = chain(PREFIX[:9])
    extend_keys(keys, b"", PREFIX, BLOCK)
    assert keys == chain(PREFIX)


def test_tenants_and_salts_do_not_share_keys():
    roots = {root_key(tenant, salt) for tenant in ("", "a", "ab") for salt in ("", "b", "c")}
    assert len(roots) == 9, "nor does ('a', 'b') imitate ('ab', '')"
    assert len({chain(PREFIX, root)[0] for root in roots}) == 9


def test_a_second_request_computes_only_what_is_new():
    harness = Harness()
    harness.add(1, [*PREFIX, 1, 2])
    harness.run()
    harness.add(2, [*PREFIX, 3, 4, 5])
    harness.run()
    assert harness.runner.computed == [42, 3]
    assert harness.cached == {1: 0, 2: 40}
    stats = harness.engine.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (42 + 43, 40)
    assert stats.kv_tokens_used == 0, "cached blocks are free"


def test_a_prompt_that_is_there_whole_still_computes_its_last_block():
    harness = Harness()
    for request_id in (1, 2):
        harness.add(request_id, PREFIX)
        harness.run()
    assert harness.runner.computed == [40, BLOCK]
    assert harness.tokens[1] == harness.tokens[2]


def test_an_answer_is_found_again_when_the_conversation_goes_on():
    harness = Harness()
    harness.add(1, PREFIX, max_tokens=9)
    harness.run()
    harness.add(2, [*PREFIX, *harness.tokens[1], 7])
    harness.run()
    assert harness.cached[2] == 48, "the ninth token was never computed, only sampled"


@pytest.mark.parametrize("other", [{"tenant": "b"}, {"tenant": "a", "salt": "x"}])
def test_another_tenant_or_salt_finds_nothing(other):
    harness = Harness()
    harness.add(1, PREFIX, tenant="a")
    harness.run()
    harness.add(2, PREFIX, **other)
    harness.add(3, PREFIX, tenant="a")
    harness.run()
    assert (harness.cached[2], harness.cached[3]) == (0, 36)


def test_a_burst_of_requests_with_one_prefix_computes_it_once():
    harness = Harness(budget=32)
    for request_id in range(16):
        harness.add(request_id, [*PREFIX, request_id])
    harness.run()
    assert sum(harness.runner.computed) == 41 + 15
    assert harness.runner.computed[:2] == [32, 9], "while the prefix is computed the others wait for it"


def test_those_who_share_nothing_pass_those_who_wait_for_a_block_under_way():
    harness = Harness(budget=64)
    harness.add(1, PREFIX)
    harness.add(2, PREFIX)
    harness.add(3, [5, 6, 7])
    assert harness.step().admitted == [1, 3]


def test_who_waited_for_a_block_computes_it_when_the_one_computing_is_gone():
    harness = Harness(budget=16)
    harness.add(1, [*PREFIX, 1])
    harness.add(2, [*PREFIX, 2])
    harness.step()
    harness.engine.abort(1)
    harness.run()
    assert harness.cached == {1: 0, 2: 16}, "what was computed before is kept"
    assert len(harness.tokens[2]) == 1


def test_a_request_that_failed_leaves_nothing_in_the_cache():
    harness = Harness(budget=16)
    harness.add(1, [*PREFIX, POISON])
    harness.add(2, [*PREFIX, 2])
    failed = [request_id for _ in range(4) for request_id in harness.step().failed]
    harness.run()
    assert failed == [1]
    assert harness.cached[2] == 0
    assert len(harness.tokens[2]) == 1


def test_a_preempted_sequence_finds_its_own_blocks_again():
    harness = Harness(num_blocks=8, project_peak=False)
    harness.add(1, range(15), max_tokens=17)
    harness.add(2, range(50, 61), max_tokens=17)
    while harness.engine.stats().preemptions == 0:
        harness.step()
    harness.engine.abort(1)
    harness.step()
    assert len(harness.tokens[2]) > 1
    assert harness.runner.computed[-1] <= 2 * BLOCK, "its prompt and more had to be computed before"


def test_without_the_cache_every_prompt_is_computed():
    harness = Harness(prefix_caching=False)
    for request_id in (1, 2):
        harness.add(request_id, PREFIX)
        harness.run()
    assert harness.runner.computed == [40, 40]
    assert harness.engine.stats().prefix_queries == 0


def test_log_probabilities_of_the_prompt_need_all_of_it_computed():
    harness = Harness()
    harness.add(1, PREFIX)
    harness.run()
    harness.add(2, PREFIX, prompt_logprobs=1)
    harness.engine.step(0.0)
    assert harness.runner.computed == [40, 40]


def test_the_least_recently_used_block_is_evicted_and_the_end_of_a_chain_before_its_start():
    pool = BlockPool(num_blocks=4, block_size=BLOCK)
    for name in (b"a", b"b"):
        blocks = pool.allocate(2)
        pool.register(blocks[0], name + b"0")
        pool.register(blocks[1], name + b"1")
        pool.free(reversed(blocks))
    pool.allocate(1)
    assert pool.lookup([b"a0", b"a1"]) == pool.lookup([b"a0"]) != []
    assert len(pool.lookup([b"b0", b"b1"])) == 2
    pool.allocate(1)
    assert pool.lookup([b"a0"]) == []


def test_a_block_without_contents_is_handed_out_before_a_cached_one():
    pool = BlockPool(num_blocks=2, block_size=BLOCK)
    (cached,) = pool.allocate(1)
    pool.register(cached, b"key")
    pool.free([cached])
    assert pool.allocate(1) != [cached]
    assert pool.allocate(1) == [cached]
    assert pool.lookup([b"key"]) == []


def test_a_cached_block_that_is_shared_is_no_longer_free():
    pool = BlockPool(num_blocks=2, block_size=BLOCK)
    (block,) = pool.allocate(1)
    pool.register(block, b"key")
    pool.free([block])
    assert pool.num_free == 2
    pool.share(pool.lookup([b"key"]))
    assert (pool.num_free, pool.count_held([block])) == (1, 1)
    pool.check_integrity([[block]])


def test_the_integrity_check_sees_a_key_that_leads_nowhere():
    pool = BlockPool(num_blocks=2, block_size=BLOCK)
    (block,) = pool.allocate(1)
    pool.register(block, b"key")
    pool._keys[block] = None
    with pytest.raises(AssertionError, match="key"):
        pool.check_integrity([[block]])


def test_speculation_and_cache_give_the_tokens_of_a_plain_engine():
    plain, both = Harness(prefix_caching=False), Harness(speculative_ngram=4)
    for harness in (plain, both):
        for request_id in range(6):
            harness.add(request_id, [*PREFIX[: 7 * request_id], request_id], max_tokens=30)
        harness.run()
    assert plain.tokens == both.tokens
