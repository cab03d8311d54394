"""More work than room."""

import asyncio

import httpx


async def test_requests_beyond_the_queue_are_told_to_come_back(start_server):
    server = start_server("--max-num-seqs", "1", "--max-queued-requests", "2", "--sim-step-time", "0.01")
    request = {"prompt": "a", "max_tokens": 100, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        answers = await asyncio.gather(*(client.post("/v1/completions", json=request) for _ in range(8)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 5
    for answer in refused:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "engine_overloaded"


async def test_a_cache_that_is_too_small_for_all_makes_them_take_turns(start_server):
    # 64 bytes per token: 40 blocks of 16 tokens
    server = start_server("--kv-cache-memory", "40Ki", "--max-model-len", "400")
    assert server.metric("octavo_kv_tokens_capacity") == 640
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:

        async def text(seed):
            request = {"prompt": "abc", "max_tokens": 300, "seed": seed, "ignore_eos": True}
            return (await client.post("/v1/completions", json=request)).json()["choices"][0]["text"]

        together = await asyncio.gather(*(text(seed) for seed in range(8)))
        assert server.metric("octavo_preemptions_total") > 0
        assert together == [await text(seed) for seed in range(8)]
    assert server.metric("octavo_kv_tokens_used") == 0


def test_the_cache_bounds_what_a_request_may_ask_for(start_server):
    server = start_server("--kv-cache-memory", "40Ki")
    response = server.client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 638})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    whole = server.client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 637, "ignore_eos": True})
    assert whole.json()["usage"]["total_tokens"] == 640
