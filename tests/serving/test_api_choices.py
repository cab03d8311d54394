"""Several choices and several prompts in one request: each as it would be alone, and all or none."""

import json

import pytest

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def answer(client, path=COMPLETIONS, **request):
    response = client.post(path, json={"max_tokens": 12, "ignore_eos": True} | request)
    assert response.status_code == 200, response.text
    return response.json()


def texts(body):
    assert [choice["index"] for choice in body["choices"]] == list(range(len(body["choices"])))
    return [choice["text"] if "text" in choice else choice["message"]["content"] for choice in body["choices"]]


def streamed(client, path, request):
    """The choices' pieces, by index, and the usage."""
    response = client.post(path, json=request | {"stream": True, "stream_options": {"include_usage": True}})
    *data, done = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert done == "[DONE]"
    *chunks, last = [json.loads(event) for event in data]
    pieces = {}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        pieces.setdefault(choice["index"], []).append(choice)
    return pieces, last["usage"]


def test_choice_number_i_has_the_text_of_seed_plus_i(client):
    alone = [texts(answer(client, prompt="hello", seed=7 + number))[0] for number in range(4)]
    assert len(set(alone)) == 4
    body = answer(client, prompt="hello", seed=7, n=4, best_of=4)
    assert texts(body) == alone
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (5, 48), "a prompt counts once"


def test_greedy_choices_are_equal_and_without_a_seed_they_differ(client):
    assert len(set(texts(answer(client, prompt="hello", n=5, temperature=0)))) == 1
    assert len(set(texts(answer(client, CHAT, messages=HELLO, n=5)))) == 5
    assert len(set(texts(answer(client, prompt=["same"] * 3, n=2)))) == 6


def test_several_prompts_are_answered_as_each_alone_and_in_order(client):
    prompts = ["hello", "a much longer prompt than the first", "x"]
    alone = [text for prompt in prompts for text in texts(answer(client, prompt=prompt, seed=3, n=2))]
    body = answer(client, prompt=prompts, seed=3, n=2)
    assert texts(body) == alone
    assert body["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert texts(answer(client, prompt=[[8, 5, 12, 12, 15], "x"], seed=3)) == [alone[0], alone[4]]


@pytest.mark.parametrize(("path", "request_"), [(COMPLETIONS, {"prompt": ["hello", "x"]}), (CHAT, {"messages": HELLO})])
def test_streams_interleave_choices_that_add_up(client, path, request_):
    request = request_ | {"n": 3, "seed": 11, "max_tokens": 40, "ignore_eos": True}
    whole = answer(client, path, **request)
    pieces, usage = streamed(client, path, request)
    for index, text in enumerate(texts(whole)):
        own = pieces[index]
        said = [choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in own]
        assert "".join(said) == text
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["length"]
        if path == CHAT:
            assert [choice["delta"].get("role") for choice in own] == ["assistant"] + [None] * (len(own) - 1)
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert usage["prompt_tokens"] == whole["usage"]["prompt_tokens"]


def test_a_client_that_leaves_ends_all_of_its_choices(server, client, wait_for):
    request = {"prompt": "hello", "n": 8, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with client.stream("POST", COMPLETIONS, json=request) as stream:
        next(stream.iter_lines())
    gone = lambda: server.metric("octavo_requests_running") == 0 and server.metric("octavo_kv_tokens_used") == 0  # noqa: E731
    wait_for(gone, "all choices end")


def test_a_stop_string_ends_its_own_choice_alone(client):
    request = {"prompt": "hello", "n": 3, "seed": 5, "max_tokens": 60}
    free = texts(answer(client, **request))
    stop = free[1][20:23]
    body = answer(client, **request, stop=stop)
    expected = [text[: text.index(stop)] if stop in text else text for text in free]
    assert texts(body) == expected
    assert body["choices"][1]["finish_reason"] == "stop"


def test_all_choices_of_a_request_are_taken_or_none(launch, wait_for):
    server = launch("--max-num-seqs", "2", "--max-queued-requests", "2", "--sim-step-time", "0.05").started()
    too_many = server.client.post(COMPLETIONS, json={"prompt": ["a", "b"], "n": 3})
    assert too_many.status_code == 400, "it could never be taken"
    assert too_many.json()["error"]["param"] == "prompt"
    assert server.client.post(CHAT, json={"messages": HELLO, "n": 5}).json()["error"]["param"] == "n"
    long = {"prompt": "hello", "n": 2, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with server.client.stream("POST", COMPLETIONS, json=long) as stream:
        lines = stream.iter_lines()  # a name keeps it, and so the connection, open
        begun = set()
        while begun != {0, 1}:
            choice = next(json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {"))
            assert choice["finish_reason"] is None, "both begin long before either ends"
            begun.add(choice["index"])
        refused = server.client.post(COMPLETIONS, json={"prompt": "x", "n": 3, "max_tokens": 4000, "ignore_eos": True})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "engine_overloaded"
        wait_for(lambda: server.metric("octavo_requests_waiting") == 0, "none of the refused ones is left")
        assert server.metric("octavo_requests_running") == 2
    assert answer(server.client, prompt="x", n=2)["usage"]["completion_tokens"] == 24
