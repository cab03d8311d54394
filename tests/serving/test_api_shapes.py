"""What clients get: shapes as the official OpenAI client's types have them, and the right text."""

import json

import pytest

HELLO = [{"role": "user", "content": "hello"}]


def events(response):
    """The data of a stream's events; comments are left out."""
    assert response.headers["content-type"].startswith("text/event-stream")
    return [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]


def chunks(response):
    *data, done = events(response)
    assert done == "[DONE]"
    return [json.loads(event) for event in data]


def usage(prompt, completion, cached):
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def test_a_chat_completion(client):
    request = {"model": "sim-model", "messages": HELLO, "max_tokens": 5, "min_tokens": 5}
    response = client.post("/v1/chat/completions", json=request)
    assert response.status_code == 200
    body = response.json()
    text = body["choices"][0]["message"]["content"]
    assert body["id"].startswith("chatcmpl-")
    assert isinstance(body["created"], int)
    assert body | {"id": "", "created": 0} == {
        "id": "",
        "object": "chat.completion",
        "created": 0,
        "model": "sim-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "finish_reason": "length",
                "logprobs": None,
            }
        ],
        "usage": usage(23, 5, body["usage"]["prompt_tokens_details"]["cached_tokens"]),
    }
    assert len(text) == 5, "one character per token in this model"


def test_a_completion(client):
    body = client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 4, "ignore_eos": True}).json()
    text = body["choices"][0]["text"]
    assert body["id"].startswith("cmpl-")
    assert body | {"id": "", "created": 0} == {
        "id": "",
        "object": "text_completion",
        "created": 0,
        "model": "sim-model",
        "choices": [{"index": 0, "text": text, "finish_reason": "length", "logprobs": None}],
        "usage": usage(5, 4, 0),
    }


def test_chat_chunks_say_the_role_first_and_the_finish_reason_last(client):
    request = {"messages": HELLO, "max_tokens": 6, "seed": 3}
    received = chunks(client.post("/v1/chat/completions", json=request | {"stream": True}))
    assert {chunk["object"] for chunk in received} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in received}) == 1
    assert all("usage" not in chunk for chunk in received)
    assert received[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in received[1:])
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in received]
    assert reasons == [None] * (len(received) - 1) + ["length"]
    whole = client.post("/v1/chat/completions", json=request).json()["choices"][0]["message"]["content"]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in received) == whole


def test_completion_chunks_add_up_to_the_whole_text(client):
    request = {"prompt": "abc", "max_tokens": 20, "seed": 3, "ignore_eos": True}
    received = chunks(client.post("/v1/completions", json=request | {"stream": True}))
    assert {chunk["object"] for chunk in received} == {"text_completion"}
    whole = client.post("/v1/completions", json=request).json()["choices"][0]["text"]
    assert "".join(chunk["choices"][0]["text"] for chunk in received) == whole


@pytest.mark.parametrize(
    ("path", "prompt"), [("/v1/completions", {"prompt": "hello"}), ("/v1/chat/completions", {"messages": HELLO})]
)
def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(client, path, prompt):
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 3, "ignore_eos": True}
    *received, last = chunks(client.post(path, json=prompt | options))
    assert all(chunk["usage"] is None for chunk in received)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 3


@pytest.mark.parametrize(
    ("path", "prompt"), [("/v1/completions", {"prompt": "hello"}), ("/v1/chat/completions", {"messages": HELLO})]
)
def test_usage_up_to_now_comes_in_each_chunk_when_asked_for(client, path, prompt):
    usage = {"include_usage": True, "continuous_usage_stats": True}
    options = {"stream": True, "stream_options": usage, "max_tokens": 12, "n": 2, "ignore_eos": True}
    *received, last = chunks(client.post(path, json=prompt | options))
    counts = [chunk["usage"]["completion_tokens"] for chunk in received]
    assert counts == sorted(counts)  # how many chunks there are depends on who reads how fast
    assert counts[-1] == last["usage"]["completion_tokens"] == 24
    for chunk in received:
        assert chunk["usage"]["prompt_tokens"] == last["usage"]["prompt_tokens"]
        assert chunk["usage"]["total_tokens"] == chunk["usage"]["prompt_tokens"] + chunk["usage"]["completion_tokens"]


def test_a_prompt_may_be_token_ids_or_a_list_with_one_prompt(client):
    token_ids = [8, 5, 12, 12, 15]  # hello
    texts = {
        client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 8, "seed": 1}).json()["choices"][0]["text"]
        for prompt in ("hello", token_ids, ["hello"], [token_ids])
    }
    assert len(texts) == 1


def test_a_developer_message_is_a_system_message_and_parts_are_joined(client):
    def answer(role, content):
        messages = [{"role": role, "content": content}, *HELLO]
        body = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 8, "seed": 1}).json()
        return body["choices"][0]["message"]["content"], body["usage"]["prompt_tokens"]

    parts = [{"type": "text", "text": "be "}, {"type": "text", "text": "kind"}]
    assert answer("system", "be kind") == answer("developer", parts)


def test_the_default_for_max_tokens_is_the_rest(client):
    body = client.post("/v1/completions", json={"prompt": [1] * 4090, "ignore_eos": True}).json()
    assert body["usage"] == usage(4090, 6, body["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_max_completion_tokens_is_the_newer_name_and_wins(client):
    request = {"messages": HELLO, "max_tokens": 9, "max_completion_tokens": 2, "ignore_eos": True}
    assert client.post("/v1/chat/completions", json=request).json()["usage"]["completion_tokens"] == 2


def test_the_same_seed_gives_the_same_text_and_another_one_another(client):
    def text(**extra):
        request = {"prompt": "hello", "max_tokens": 24, "ignore_eos": True} | extra
        return client.post("/v1/completions", json=request).json()["choices"][0]["text"]

    assert text(seed=7) == text(seed=7)
    assert text(seed=7) != text(seed=8)
    assert text() != text(), "without a seed, chance"
    assert text(temperature=0) == text(temperature=0)
    assert text(seed=-1) == text(seed=-1)


def test_a_stop_token_ends_the_text_and_is_no_part_of_it(client):
    request = {"prompt": "hello", "max_tokens": 200, "seed": 5, "ignore_eos": True}
    free = client.post("/v1/completions", json=request).json()["choices"][0]["text"]
    stop_id = 5  # e
    choice = client.post("/v1/completions", json=request | {"stop_token_ids": [stop_id]}).json()["choices"][0]
    assert choice == {"index": 0, "text": free[: free.index("e")], "finish_reason": "stop", "logprobs": None}


def test_min_tokens_keeps_stop_tokens_away(client):
    request = {"prompt": "hello", "max_tokens": 60, "seed": 5, "stop_token_ids": list(range(1, 65))}
    body = client.post("/v1/completions", json=request | {"min_tokens": 9}).json()
    assert body["usage"]["completion_tokens"] >= 10
    assert client.post("/v1/completions", json=request).json()["usage"]["completion_tokens"] < 10


def test_a_stop_string_is_found_across_tokens_and_never_shows(client):
    request = {"prompt": "hello", "max_tokens": 200, "min_tokens": 50, "seed": 5}  # no end of sequence before
    free = client.post("/v1/completions", json=request).json()["choices"][0]["text"]
    stop = free[50:54]
    assert stop not in free[:50]
    expected = free[: free.index(stop)]
    body = client.post("/v1/completions", json=request | {"stop": ["never this", stop]}).json()
    assert body["choices"][0]["text"] == expected
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == len(expected) + len(stop), "up to the token that completed it"
    received = chunks(client.post("/v1/completions", json=request | {"stop": stop, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in received) == expected
    assert received[-1]["choices"][0]["finish_reason"] == "stop"


def test_text_that_only_looks_like_a_stop_string_is_given_out_in_the_end(client):
    request = {"prompt": "hello", "max_tokens": 30, "seed": 5, "ignore_eos": True}
    free = client.post("/v1/completions", json=request).json()["choices"][0]["text"]
    body = client.post("/v1/completions", json=request | {"stop": free[-3:] + "~"}).json()
    assert body["choices"][0]["text"] == free
    assert body["choices"][0]["finish_reason"] == "length"


def test_models(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    (card,) = listed["data"]
    assert card == {
        "id": "sim-model",
        "object": "model",
        "created": card["created"],
        "owned_by": "octavo",
        "max_model_len": 4096,
    }
    assert client.get("/v1/models/sim-model").json() == card


def test_version_and_schema(client):
    assert client.get("/version").json()["version"]
    assert "/v1/chat/completions" in client.get("/openapi.json").json()["paths"]
