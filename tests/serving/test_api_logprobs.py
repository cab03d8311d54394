"""Log probabilities, of answers and of prompts, in the shapes that clients read.

In the sim runner's made-up distribution the best token has probability 1/2, the next id 1/4, and so on.
"""

import json
import math

import pytest

from octavo_runtime.core.batch import SamplingRow
from octavo_runtime.runner.sim_runner import continuation

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
VOCABULARY = 72
EOS = 0
HALF = math.log(0.5)


def post(client, path, **request):
    response = client.post(path, json={"max_tokens": 20, "seed": 1} | request)
    assert response.status_code == 200, response.text
    return response.json()


def events(client, path, **request):
    response = client.post(path, json={"max_tokens": 20, "seed": 1, "stream": True} | request)
    *data, done = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert done == "[DONE]"
    return [json.loads(event)["choices"][0] for event in data]


def test_a_chat_names_each_token_with_its_bytes_and_the_most_probable_ones(client):
    body = post(client, CHAT, messages=HELLO, logprobs=True, top_logprobs=3, temperature=0, ignore_eos=True)
    choice = body["choices"][0]
    content = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert len(content) == body["usage"]["completion_tokens"] == 20
    assert "".join(entry["token"] for entry in content if entry["token"] != "<eos>") == choice["message"]["content"]
    for entry in content:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert entry["logprob"] == pytest.approx(HALF), "greedy takes the best"
        scores = [top["logprob"] for top in entry["top_logprobs"]]
        assert scores == pytest.approx([HALF, 2 * HALF, 3 * HALF])
        assert entry["top_logprobs"][0]["token"] == entry["token"]
        assert set(entry["top_logprobs"][0]) == {"token", "logprob", "bytes"}


def test_a_chat_without_top_logprobs_has_none_beside_the_chosen_ones(client):
    content = post(client, CHAT, messages=HELLO, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] and entry["logprob"] <= HALF + 1e-6 for entry in content)
    for nothing in ({"logprobs": False}, {"logprobs": None, "top_logprobs": 0}):
        assert post(client, CHAT, messages=HELLO, **nothing)["choices"][0]["logprobs"] is None


def test_a_completion_has_them_in_columns(client):
    body = post(client, COMPLETIONS, prompt="hello", logprobs=2, ignore_eos=True)
    choice = body["choices"][0]
    columns = choice["logprobs"]
    assert {len(column) for column in columns.values()} == {body["usage"]["completion_tokens"]}
    rows = zip(
        columns["tokens"], columns["token_logprobs"], columns["top_logprobs"], columns["text_offset"], strict=True
    )
    for token, logprob, top, offset in rows:
        assert top[token] == logprob, "the chosen one is there, among the best or not"
        assert len(top) == (2 if logprob > 2.5 * HALF else 3)
        if token != "<eos>":
            assert choice["text"][offset:].startswith(token)


@pytest.mark.parametrize("stop", [None, "chosen below"])
def test_a_stream_says_what_the_whole_answer_says(client, stop):
    if stop:
        stop = post(client, COMPLETIONS, prompt="hello")["choices"][0]["text"][9:12]
    wishes = {"prompt": "hello", "logprobs": 1, "stop": stop, "echo": True, "max_tokens": 200}
    whole = post(client, COMPLETIONS, **wishes)["choices"][0]
    pieces = events(client, COMPLETIONS, **wishes)
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    for column, values in whole["logprobs"].items():
        assert [value for piece in pieces for value in piece["logprobs"][column]] == values
    chat = {"messages": HELLO, "logprobs": True, "top_logprobs": 1}
    content = [entry for piece in events(client, CHAT, **chat) for entry in piece["logprobs"]["content"]]
    assert content == post(client, CHAT, **chat)["choices"][0]["logprobs"]["content"]


def test_there_is_an_entry_for_each_token_that_usage_counts(client):
    """So also for the token that completes a stop string, and for the one that ends the sequence."""
    free = post(client, COMPLETIONS, prompt="hello", max_tokens=60, seed=2)["choices"][0]["text"]
    for wishes in ({"stop": free[10:13]}, {"stop_token_ids": [5]}, {}):
        body = post(client, COMPLETIONS, prompt="hello", max_tokens=60, logprobs=0, seed=2, **wishes)
        assert len(body["choices"][0]["logprobs"]["tokens"]) == body["usage"]["completion_tokens"]


def expected_ranks(tokens):
    """Of each token after the first."""
    greedy = [SamplingRow(0.0, 1.0, 0, 0, 0)]
    best = [continuation(tokens[:index], greedy, VOCABULARY)[0] for index in range(1, len(tokens))]
    return [(token - first) % VOCABULARY + 1 for token, first in zip(tokens[1:], best, strict=True)]


TOKENS = [8, 5, 12, 12, 15] * 60


def check_prompt(listed, tokens, top):
    assert len(listed) == len(tokens)
    assert listed[0] is None
    for token, rank, entry in zip(tokens[1:], expected_ranks(tokens), listed[1:], strict=True):
        assert entry[str(token)]["rank"] == rank
        assert entry[str(token)]["logprob"] == pytest.approx(rank * HALF)
        assert len(entry) == top + (rank > top)
        assert sorted(one["rank"] for one in entry.values())[:top] == list(range(1, top + 1))


def test_a_prompts_log_probabilities_are_vllms_list_by_token_id(client):
    """Twice: the second time the prefix cache knows the prompt, which would leave nothing to rate."""
    for _ in range(2):
        choice = post(client, COMPLETIONS, prompt=TOKENS, prompt_logprobs=2)["choices"][0]
        check_prompt(choice["prompt_logprobs"], TOKENS, 2)
    assert choice["prompt_logprobs"][1]["5"]["decoded_token"] == "e"
    chat = post(client, CHAT, messages=HELLO, prompt_logprobs=0)
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
    assert "prompt_logprobs" not in post(client, CHAT, messages=HELLO)


def test_chunks_of_a_prompt_change_nothing(launch):
    """A budget of 16 tokens a step, shared by six choices."""
    server = launch("--max-num-batched-tokens", "16", "--max-num-seqs", "6").started()
    for choice in post(server.client, COMPLETIONS, prompt=TOKENS, prompt_logprobs=1, n=6)["choices"]:
        check_prompt(choice["prompt_logprobs"], TOKENS, 1)


def test_an_echo_is_the_prompt_and_the_answer(client):
    plain = post(client, COMPLETIONS, prompt="hello")["choices"][0]["text"]
    assert post(client, COMPLETIONS, prompt="hello", echo=True)["choices"][0]["text"] == "hello" + plain
    assert post(client, COMPLETIONS, prompt=TOKENS[:5], echo=True)["choices"][0]["text"] == "hello" + plain
    pieces = events(client, COMPLETIONS, prompt="hello", echo=True)
    assert "".join(piece["text"] for piece in pieces) == "hello" + plain


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_what_evaluation_harnesses_ask_for(client, max_tokens):
    """An echo with log probabilities and no answer, or one token of it: several prompts at a time."""
    prompts = [TOKENS[:40], TOKENS[3:30]]
    wishes = {"prompt": prompts, "echo": True, "logprobs": 1, "max_tokens": max_tokens, "temperature": 0}
    body = post(client, COMPLETIONS, ignore_eos=True, **wishes)
    assert body["usage"]["completion_tokens"] == 2 * max_tokens
    for prompt, choice in zip(prompts, body["choices"], strict=True):
        assert choice["finish_reason"] == "length"
        columns = choice["logprobs"]
        assert len(columns["tokens"]) == len(prompt) + max_tokens
        assert (columns["token_logprobs"][0], columns["top_logprobs"][0]) == (None, None)
        rated = columns["token_logprobs"][1 : len(prompt)]
        assert rated == pytest.approx([rank * HALF for rank in expected_ranks(prompt)])
        assert columns["text_offset"] == list(range(len(prompt) + max_tokens)), "one character per token"
        assert "prompt_logprobs" not in choice
