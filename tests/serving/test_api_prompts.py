"""What becomes of a prompt before the model sees it, and of an answer before the client does."""

import pytest

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def post(client, path, **request):
    response = client.post(path, json=request)
    assert response.status_code == 200, response.text
    return response.json()


def complete(client, prompt, **wishes):
    body = post(client, COMPLETIONS, prompt=prompt, **{"max_tokens": 20, "seed": 1, "ignore_eos": True} | wishes)
    return body["choices"][0]["text"]


def chat(client, messages, **wishes):
    body = post(client, CHAT, messages=messages, **{"max_tokens": 20, "seed": 1, "ignore_eos": True} | wishes)
    return body["choices"][0]["message"]["content"]


def rendered(client, messages, **wishes):
    """The text that the model sees."""
    tokens = post(client, "/tokenize", messages=messages, **wishes)["tokens"]
    return post(client, "/detokenize", tokens=tokens)["prompt"]


def test_only_the_end_of_a_prompt_is_kept_where_that_is_wanted(client):
    assert complete(client, "abcdefgh", truncate_prompt_tokens=3) == complete(client, "fgh")
    assert complete(client, "fgh", truncate_prompt_tokens=30) == complete(client, "fgh")
    text = "user: " + "x" * 50 + "end\nassistant: "
    assert chat(client, [{"role": "user", "content": "x" * 50 + "end"}], truncate_prompt_tokens=16) == complete(
        client, text[-16:]
    )
    assert complete(client, "abcdefgh", truncate_prompt_tokens=3, echo=True).startswith("fgh")


def test_a_prompt_that_is_too_long_can_be_cut_to_what_fits(client):
    body = post(
        client, COMPLETIONS, prompt="ab" * 3000, truncate_prompt_tokens=-1, max_tokens=96, ignore_eos=True, seed=1
    )
    assert body["usage"]["prompt_tokens"] == 4000
    assert body["choices"][0]["text"] == complete(client, "ab" * 2000, max_tokens=96)


def test_a_chat_can_go_on_in_its_last_message(client):
    messages = [*HELLO, {"role": "assistant", "content": "Once upon"}]
    text = "user: hello\nassistant: Once upon"
    assert rendered(client, messages, continue_final_message=True) == text
    assert chat(client, messages, continue_final_message=True) == complete(client, text)
    assert chat(client, messages, continue_final_message=True, add_generation_prompt=False) == complete(client, text)
    assert chat(client, messages, add_generation_prompt=False) == complete(client, text + "\n")
    assert chat(client, messages) == complete(client, text + "\nassistant: ")


def test_special_tokens_in_a_message_are_text_and_in_a_prompt_are_control(client):
    """There is no `<` in this vocabulary, so the text loses it; what matters is that token 0 is not there."""
    assert 0 in post(client, "/tokenize", prompt="a<eos>b")["tokens"]
    as_text = post(client, "/tokenize", messages=[{"role": "user", "content": "a<eos>b"}])["tokens"]
    assert 0 not in as_text
    assert len(as_text) == len("user: aeosb\nassistant: ")


def test_a_templates_own_switches(launch, sim_model, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in sim_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    template = "{{ 'think: ' if enable_thinking else 'answer: ' }}{{ messages[0].content }}"
    (folder / "chat_template.jinja").write_text(template)
    server = launch(model=folder).started()
    assert rendered(server.client, HELLO) == "answer: hello"
    assert rendered(server.client, HELLO, chat_template_kwargs={"enable_thinking": True}) == "think: hello"
    cannot = {"messages": [{"role": "user", "content": "mine"}], "add_generation_prompt": False}
    assert rendered(server.client, HELLO, chat_template_kwargs=cannot) == "answer: hello"
    wishes = {"chat_template_kwargs": {"enable_thinking": True}}
    assert chat(server.client, HELLO, **wishes) == complete(server.client, "think: hello")


def test_a_stop_string_before_min_tokens_does_not_end_the_text(client):
    free = complete(client, "hello", max_tokens=60, min_tokens=60)
    early, late = free[10:12], free[40:42]
    assert late not in free[:40]
    wishes = {"max_tokens": 60, "stop": [early, late]}
    assert complete(client, "hello", **wishes, min_tokens=5) == free[:10]
    assert complete(client, "hello", **wishes, min_tokens=30) == free[:40]
    assert complete(client, "hello", max_tokens=60, stop=late, min_tokens=41) == free[:40], "completed by number 42"
    assert complete(client, "hello", max_tokens=60, stop=late, min_tokens=42).startswith(free[:42])


def test_the_stop_string_can_be_kept(client):
    free = complete(client, "hello", max_tokens=60, min_tokens=60)
    kept = complete(client, "hello", max_tokens=60, stop=free[30:33], include_stop_str_in_output=True)
    assert kept == free[:33]


def test_special_tokens_of_an_answer_are_shown_where_that_is_wanted(client):
    """Also the one that ends it, with the flag that keeps what ended it."""
    wishes = {"max_tokens": 400, "ignore_eos": False, "seed": 5}
    hidden = complete(client, "hello", **wishes)
    kept = {"skip_special_tokens": False, "include_stop_str_in_output": True}
    assert complete(client, "hello", **wishes, **kept) == hidden + "<eos>"
    assert complete(client, "hello", **wishes, skip_special_tokens=False) == hidden
    assert complete(client, "hello", **wishes, include_stop_str_in_output=True) == hidden
    on = complete(client, "hello", max_tokens=400, seed=5, skip_special_tokens=False)
    assert on.startswith(hidden + "<eos>"), "with ignore_eos it is a token like any other"


def test_what_a_text_costs_can_be_asked(client):
    body = post(client, "/tokenize", prompt="hello", return_token_strs=True)
    assert body == {"count": 5, "max_model_len": 4096, "tokens": [8, 5, 12, 12, 15], "token_strs": list("hello")}
    assert post(client, "/detokenize", tokens=[8, 5, 12, 12, 15, 0]) == {"prompt": "hello<eos>"}
    count = post(client, "/tokenize", messages=HELLO)["count"]
    assert count == post(client, CHAT, messages=HELLO, max_tokens=1)["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "request_", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, "model"),
        ("/detokenize", {"tokens": [72]}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_what_cannot_be_tokenised_is_refused_by_name(client, path, request_, param):
    response = client.post(path, json=request_)
    assert response.status_code in {400, 404}
    assert response.json()["error"]["param"] == param


def test_a_request_id_comes_back_on_every_answer(client):
    for path in ("/v1/models", "/v1/models/other", "/nowhere", "/livez"):
        response = client.get(path, headers={"X-Request-Id": "my-id:1"})
        assert response.headers.get_list("x-request-id") == ["my-id:1"]
    stream = {"prompt": "hello", "max_tokens": 2, "stream": True}
    assert client.post(COMPLETIONS, json=stream, headers={"x-request-id": "s"}).headers["x-request-id"] == "s"


def test_a_request_without_a_sensible_id_gets_a_new_one(client):
    ids = [client.get("/v1/models").headers["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3
    for bad in ("x" * 201, "a b", ""):
        assert client.get("/v1/models", headers={"X-Request-Id": bad}).headers["x-request-id"] not in {bad, ""}
