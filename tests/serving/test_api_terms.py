"""Tenants, priorities and deadlines as clients ask for them, and what the cache and drafts do for them."""

import json

import pytest

PAGES = "The octavo is a book made of folded pages. " * 4
STEP_TIME = {"base": 0.05, "per_prefill_token": 0.02, "per_decode": 0.0, "per_kv_token": 0.0}


@pytest.fixture(scope="module")
def slow(start_server, tmp_path_factory):
    """A server whose steps take 50 ms, and 20 ms more for each token of a prompt."""
    profile = tmp_path_factory.mktemp("profile") / "profile.json"
    profile.write_text(json.dumps(STEP_TIME))
    return start_server("--sim-profile", str(profile))


@pytest.fixture(scope="module")
def unusual(start_server):
    """A server without a prefix cache that guesses ahead."""
    return start_server("--no-prefix-caching", "--speculative-ngram", "4")


def cached(server, prompt, headers=None, **fields):
    """Ask for one token; return how much of the prompt was in the cache."""
    body = {"prompt": prompt, "max_tokens": 1, "ignore_eos": True} | fields
    response = server.client.post("/v1/completions", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_prompt_that_came_before_is_found_in_the_cache(server):
    prompt = "cached " + PAGES
    names = [f"{prefix}prefix_cache_{kind}_total" for prefix in ("octavo_", "vllm:") for kind in ("queries", "hits")]
    before = [server.metric(name) for name in names]
    assert cached(server, prompt) == 0
    hits = cached(server, prompt)
    assert hits == (len(prompt) - 1) // 16 * 16, "all full blocks, but never the last token"
    counted = [server.metric(name) - old for name, old in zip(names, before, strict=True)]
    assert counted == [2 * len(prompt), hits] * 2
    assert server.metric("octavo_kv_tokens_used") == 0, "what is only cached is free"


@pytest.mark.parametrize(
    "other",
    [
        {"headers": {"authorization": "Bearer another"}},
        {"user": "another"},
        {"cache_salt": "another"},
        {"headers": {"authorization": "Bearer mine"}, "cache_salt": "another"},
    ],
)
def test_another_tenant_does_not_find_it(server, other):
    prompt = repr(other) + PAGES
    cached(server, prompt)
    cached(server, prompt, headers={"authorization": "Bearer mine"})
    assert cached(server, prompt, **other) == 0
    assert cached(server, prompt, **other) > 0


def test_under_one_key_the_user_makes_no_difference(server):
    key = {"authorization": "Bearer mine"}
    cached(server, "users" + PAGES, key, user="a")
    assert cached(server, "users" + PAGES, key, user="b") > 0


def test_the_cache_can_be_turned_off(unusual):
    assert (cached(unusual, PAGES), cached(unusual, PAGES)) == (0, 0)
    assert unusual.metric("octavo_prefix_cache_queries_total") == 0


def test_an_answer_that_cannot_be_complete_in_time_is_an_error(slow, wait_for):
    body = {"prompt": "hello", "max_tokens": 2000, "ignore_eos": True, "timeout": 0.5}
    response = slow.client.post("/v1/completions", json=body)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    wait_for(lambda: slow.metric("octavo_kv_tokens_used") == 0, "its blocks come back")
    assert slow.metric("octavo_requests_total", finished_reason="deadline") >= 1


def test_a_stream_that_is_late_ends_with_an_error(slow):
    body = {"prompt": "hello", "max_tokens": 2000, "ignore_eos": True, "timeout": 0.5, "stream": True}
    text = slow.client.post("/v1/completions", json=body).text
    *_, last = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert json.loads(last)["error"]["code"] == "deadline_exceeded"


def test_an_answer_in_time_is_not_disturbed_by_its_deadline(slow):
    body = {"prompt": "hello", "max_tokens": 2, "ignore_eos": True, "timeout": 600, "priority": -5}
    assert slow.client.post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("timeout", 0), ("timeout", -1), ("priority", 1001), ("priority", 0.5), ("cache_salt", 7), ("user", ["x"])],
)
def test_a_wrong_value_is_refused_by_name(client, field, value):
    response = client.post("/v1/completions", json={"prompt": "a", field: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field


def test_guessing_ahead_changes_no_text_and_is_counted(server, unusual):
    body = {"prompt": "ab" * 30, "max_tokens": 400, "temperature": 0, "ignore_eos": True}
    texts = {one.client.post("/v1/completions", json=body).json()["choices"][0]["text"] for one in (server, unusual)}
    assert len(texts) == 1
    assert unusual.metric("octavo_spec_draft_tokens_total") > 0
    assert unusual.metric("octavo_spec_accepted_tokens_total") <= unusual.metric("octavo_spec_draft_tokens_total")
    assert server.metric("octavo_spec_draft_tokens_total") == 0


def test_a_profile_gives_the_simulated_steps_their_time(slow):
    before = slow.metric("octavo_time_to_first_token_seconds_sum")
    slow.client.post("/v1/completions", json={"prompt": "a" * 50, "max_tokens": 1, "ignore_eos": True})
    assert slow.metric("octavo_time_to_first_token_seconds_sum") - before >= 0.05 + 50 * 0.02


def test_a_profile_that_is_wrong_ends_the_start(launch, tmp_path):
    profile = tmp_path / "profile.json"
    profile.write_text("{}")
    server = launch("--sim-profile", str(profile))
    assert server.exit_status() == 64
    assert "--sim-profile" in server.termination_log.read_text()
