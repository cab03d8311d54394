"""What cannot be served: an OpenAI-shaped answer that names the parameter, at once, and nobody else notices."""

import json
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from octavo_runtime import errors
from octavo_runtime.server.errors import error_response
from octavo_runtime.server.openai import _UNSUPPORTED

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


def assert_refused(response, status, param, code="invalid_request_error"):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"{param}: ")
    return error["message"]


BAD_VALUES = [
    ("max_tokens", -1),
    ("max_tokens", 0),
    ("max_tokens", 1.5),
    ("max_tokens", "5"),
    ("max_tokens", 2**63),
    ("max_tokens", True),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", "hot"),
    ("temperature", 1e308),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_k", -2),
    ("top_k", 2**63),
    ("seed", 2**63),
    ("seed", "x"),
    ("min_tokens", -1),
    ("min_tokens", 2**40),
    ("ignore_eos", "yes"),
    ("stop", ["a", "b", "c", "d", "e"]),
    ("stop", [""]),
    ("stop", 5),
    ("stop", ["a", 5]),
    ("stop", "x" * 1001),
    ("stop", ["a"] * 200_000),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", list(range(65))),
    ("stop_token_ids", [5000]),
    ("n", 0),
    ("n", 129),
    ("n", "2"),
    ("best_of", 0),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("presence_penalty", 2.5),
    ("frequency_penalty", -3),
    ("repetition_penalty", 0),
    ("repetition_penalty", 101),
    ("logit_bias", [1]),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"72": 1}),
    ("logit_bias", {"5": 101}),
    ("logit_bias", {"5": "1"}),
    ("logit_bias", {"5": True}),
    ("logit_bias", {str(token): 1 for token in range(1025)}),
    ("bad_words", "x"),
    ("bad_words", [""]),
    ("bad_words", ["a"] * 129),
    ("bad_words", ["€"]),
    ("allowed_token_ids", []),
    ("allowed_token_ids", [72]),
    ("prompt_logprobs", -1),
    ("prompt_logprobs", 21),
    ("logprobs", "yes"),
    ("truncate_prompt_tokens", 0),
    ("truncate_prompt_tokens", -2),
    ("skip_special_tokens", 1),
    ("stream", "maybe"),
    ("stream_options", 5),
    ("model", 5),
]


@pytest.mark.parametrize(("param", "value"), BAD_VALUES)
def test_a_bad_value_is_refused_by_the_name_of_its_parameter(client, param, value):
    for path, prompt in ((COMPLETIONS, {"prompt": "hi"}), (CHAT, {"messages": MESSAGES})):
        response = client.post(path, json=prompt | {param: value})
        named = response.json()["error"]["param"]
        assert named.partition("[")[0] == param
        assert_refused(response, 400, named)


def test_the_message_shows_the_value(client):
    response = client.post(CHAT, json={"messages": MESSAGES, "max_tokens": -1})
    assert_refused(response, 400, "max_tokens")
    assert response.json()["error"]["message"].endswith("greater than or equal to 1, not -1")


@pytest.mark.parametrize("prompt", [5, None, [], [1.5], [True], ["a", 1], {"a": 1}, [[]]])
def test_a_prompt_of_another_kind(client, prompt):
    assert_refused(client.post(COMPLETIONS, json={"prompt": prompt}), 400, "prompt")


def test_a_missing_prompt_or_messages(client):
    assert_refused(client.post(COMPLETIONS, json={}), 400, "prompt")
    assert_refused(client.post(CHAT, json={}), 400, "messages")
    assert_refused(client.post(CHAT, json={"messages": []}), 400, "messages")
    assert_refused(client.post(COMPLETIONS, json={"prompt": ""}), 400, "prompt")


@pytest.mark.parametrize("token", [-1, 72, 2**40])
def test_a_token_id_outside_the_vocabulary(client, token):
    assert_refused(client.post(COMPLETIONS, json={"prompt": [1, token]}), 400, "prompt")


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ({"role": "robot", "content": "hi"}, "messages[1].role", "invalid_request_error"),
        ({"role": "user"}, "messages[1].content", "invalid_request_error"),
        ({"role": "user", "content": 5}, "messages[1].content", "invalid_request_error"),
        ({"role": "user", "content": None}, "messages[1].content", "invalid_request_error"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[1].content", "unsupported_parameter"),
        ({"role": "assistant", "content": "", "tool_calls": [{}]}, "messages[1].tool_calls", "unsupported_parameter"),
        ({"role": "system", "content": "late"}, "messages", "invalid_request_error"),
    ],
)
def test_a_message_that_cannot_be_used(client, message, param, code):
    response = client.post(CHAT, json={"messages": [*MESSAGES, message]})
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["code"] == code
    assert response.status_code == 400


UNSUPPORTED = {
    "best_of": 3,
    "tools": [{"type": "function"}],
    "tool_choice": "required",
    "functions": [{}],
    "response_format": {"type": "json_object"},
    "echo": True,
    "suffix": "x",
    "guided_json": {},
    "chat_template": "{{ 1 }}",
    "return_token_ids": True,
    "use_beam_search": True,
    "modalities": ["audio"],
}


@pytest.mark.parametrize(("param", "value"), UNSUPPORTED.items())
def test_what_would_change_the_answer_and_is_not_implemented_is_refused_by_name(client, param, value):
    response = client.post(CHAT, json={"messages": MESSAGES, param: value})
    assert_refused(response, 400, param, "unsupported_parameter")


@pytest.mark.parametrize(
    ("path", "request_", "param", "code"),
    [
        (COMPLETIONS, {"prompt": "hi", "logprobs": 21}, "logprobs", "invalid_request_error"),
        (COMPLETIONS, {"prompt": "hi", "top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
        (
            COMPLETIONS,
            {"prompt": "hi", "chat_template_kwargs": {"a": 1}},
            "chat_template_kwargs",
            "unsupported_parameter",
        ),
        (
            COMPLETIONS,
            {"prompt": "hi", "prompt_logprobs": 1, "stream": True},
            "prompt_logprobs",
            "unsupported_parameter",
        ),
        (COMPLETIONS, {"prompt": "hi", "n": 2, "best_of": 3}, "best_of", "unsupported_parameter"),
        (CHAT, {"messages": MESSAGES, "logprobs": 3}, "logprobs", "invalid_request_error"),
        (CHAT, {"messages": MESSAGES, "top_logprobs": 3}, "top_logprobs", "invalid_request_error"),
        (
            COMPLETIONS,
            {"prompt": "hi", "stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
            "invalid_request_error",
        ),
        (CHAT, {"messages": MESSAGES, "top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_request_error"),
        (CHAT, {"messages": MESSAGES, "chat_template_kwargs": 5}, "chat_template_kwargs", "invalid_request_error"),
    ],
)
def test_what_goes_with_one_endpoint_or_another_parameter_only(client, path, request_, param, code):
    assert_refused(client.post(path, json=request_), 400, param, code)


def test_wishes_that_leave_no_token_to_choose(client):
    stops = {"allowed_token_ids": [5], "stop_token_ids": [5], "min_tokens": 1}
    words = {"allowed_token_ids": [5], "bad_words": ["e"]}  # one character per token: 5 is e
    for wishes in (stops, words):
        response = client.post(COMPLETIONS, json={"prompt": "hi", "max_tokens": 5} | wishes)
        assert_refused(response, 400, "allowed_token_ids")


def test_continuing_a_message_and_beginning_another_exclude_each_other(client):
    wishes = {"continue_final_message": True, "add_generation_prompt": True}
    assert_refused(client.post(CHAT, json={"messages": MESSAGES} | wishes), 400, "continue_final_message")


def test_the_values_that_change_nothing_are_accepted(client):
    for index in range(2):
        harmless = {name: same[min(index, len(same) - 1)] for name, same in _UNSUPPORTED.items() if same}
        response = client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 1} | harmless)
        assert response.status_code == 200, response.text
    nothing = dict.fromkeys([*_UNSUPPORTED, "temperature", "top_p", "stop", "seed", "stream", "max_tokens"])
    assert client.post(CHAT, json={"messages": MESSAGES, "max_completion_tokens": 1} | nothing).status_code == 200


def test_unknown_fields_are_ignored(client):
    extra = {"user": "u", "metadata": {}, "store": False, "service_tier": "auto", "something_new": [1]}
    assert client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 1} | extra).status_code == 200


@pytest.mark.parametrize(
    "body", [b"{", b"", b"null", b"[]", b'"x"', b"{'a': 1}", b"[" * 50_000, b"\xff\xfe", b"9" * 5000]
)
def test_a_body_that_is_no_json_object(client, body):
    response = client.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "body"


def test_a_form_is_told_what_is_wanted(client):
    response = client.post(COMPLETIONS, data={"prompt": "hi"})
    assert "application/json" in assert_refused(response, 400, "body")


def test_nan_and_infinity(client):
    for number in ("NaN", "Infinity", "1e999"):
        body = f'{{"prompt": "hi", "temperature": {number}}}'
        response = client.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
        assert_refused(response, 400, "temperature")


def test_an_unknown_model(client):
    response = client.post(CHAT, json={"model": "gpt-9", "messages": MESSAGES})
    assert_refused(response, 404, "model", "model_not_found")
    assert_refused(client.get("/v1/models/gpt-9"), 404, "model", "model_not_found")


def test_an_unknown_path_and_a_wrong_method(client):
    assert_refused(client.get("/v2/chat"), 404, "path", "not_found")
    assert_refused(client.post("/"), 404, "path", "not_found")
    response = client.put(COMPLETIONS, json={})
    assert_refused(response, 405, "method", "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_a_prompt_that_is_too_long(client):
    response = client.post(COMPLETIONS, json={"prompt": [1] * 4096})
    assert "4096" in assert_refused(response, 400, "prompt", "context_length_exceeded")
    long = [{"role": "user", "content": "a" * 5000}]
    assert_refused(client.post(CHAT, json={"messages": long}), 400, "messages", "context_length_exceeded")


def test_prompt_and_max_tokens_together_are_too_long(client):
    response = client.post(COMPLETIONS, json={"prompt": [1] * 4000, "max_tokens": 97})
    assert_refused(response, 400, "max_tokens", "context_length_exceeded")
    assert client.post(COMPLETIONS, json={"prompt": [1] * 4000, "max_tokens": 96}).status_code == 200
    response = client.post(CHAT, json={"messages": MESSAGES, "max_completion_tokens": 4096})
    assert_refused(response, 400, "max_completion_tokens", "context_length_exceeded")


def resident(pid):
    """Bytes of memory that the process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_a_huge_body_is_refused_without_being_kept(server, client):
    before = resident(server.process.pid)
    for _ in range(3):
        response = client.post(COMPLETIONS, json={"prompt": "x" * 10_000_000})
        assert_refused(response, 413, "body", "request_too_large")
    assert resident(server.process.pid) - before < 5 << 20


@pytest.mark.parametrize("length", [b"Content-Length: 10000000", b"Transfer-Encoding: chunked"])
def test_a_client_that_writes_all_before_it_reads_gets_the_answer(server, length):
    """With `Connection: close` the server closes after the answer; unread bytes would turn that into a reset."""
    url = urlsplit(server.url)
    body = b"x" * 10_000_000
    if b"chunked" in length:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with socket.create_connection((url.hostname, url.port), timeout=180) as connection:
        connection.sendall(head + length + b"\r\n\r\n" + body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_huge_body_without_a_length_is_refused_too(server, client):
    before = resident(server.process.pid)

    def pieces():
        yield b'{"prompt": "'
        for _ in range(200):
            yield b"x" * 100_000

    response = client.post(COMPLETIONS, content=pieces(), headers={"content-type": "application/json"})
    assert_refused(response, 413, "body", "request_too_large")
    assert resident(server.process.pid) - before < 5 << 20


def test_a_client_that_asks_first_need_not_send_a_huge_body(server):
    url = urlsplit(server.url)
    with socket.create_connection((url.hostname, url.port), timeout=180) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10000000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_refusals_leave_a_running_stream_alone(client):
    request = {"prompt": "hello", "max_tokens": 300, "seed": 2, "ignore_eos": True}
    expected = client.post(COMPLETIONS, json=request).json()["choices"][0]["text"]
    text = ""
    with client.stream("POST", COMPLETIONS, json=request | {"stream": True}) as stream:
        for number, line in enumerate(stream.iter_lines()):
            if number % 40 == 0:
                assert client.post(COMPLETIONS, json={"prompt": "hi", "max_tokens": -1}).status_code == 400
            if line.startswith("data: {"):
                text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
    assert text == expected


def subclasses(kind):
    return {kind} | {found for child in kind.__subclasses__() for found in subclasses(child)}


def example(kind):
    """An instance of a request error, whatever its constructor takes."""
    arguments = {
        errors.RequestError: lambda: errors.RequestError("x: wrong", param="x"),
        errors.UnsupportedParameter: lambda: errors.UnsupportedParameter("x: no", param="x"),
        errors.ContextLengthExceeded: lambda: errors.ContextLengthExceeded("x: long", param="x"),
        errors.UnknownModel: lambda: errors.UnknownModel("a", "b"),
        errors.BodyTooLarge: lambda: errors.BodyTooLarge(5),
        errors.Unavailable: lambda: errors.Unavailable("later", code="later", retry_after=3),
        errors.ModelLoading: lambda: errors.ModelLoading("weights"),
        errors.QueueFull: lambda: errors.QueueFull(5),
        errors.EngineError: lambda: errors.EngineError("failed"),
    }
    return arguments.get(kind, kind)()


@pytest.mark.parametrize("kind", sorted(subclasses(errors.RequestError), key=lambda kind: kind.__name__))
def test_every_request_error_has_an_openai_shaped_answer(kind):
    error = example(kind)
    response = error_response(error)
    body = json.loads(response.body)["error"]
    assert response.status_code == error.status
    assert 400 <= error.status < 600
    assert body["message"] == error.message
    assert body["code"] == error.code
    assert body["type"] == ("invalid_request_error" if error.status < 500 else "server_error")
    assert ("retry-after" in response.headers) == (error.status == 503)
    assert re.search(rf"─ {kind.__name__}\b", errors.__doc__), "the tree in the docstring shows it"
