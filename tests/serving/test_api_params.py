"""What a request asks for arrives at the sampler, each field at its place."""

import pytest

from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.messages import Started
from octavo_runtime.errors import RequestError
from octavo_runtime.model.info import read_model_info
from octavo_runtime.server.openai import ChatCompletionRequest, CompletionRequest
from octavo_runtime.server.sampling import after_prompt, sampling_params
from octavo_runtime.text.tokenizer import load_tokenizer

LIMITS = Started(4096, 72, 100, 16)
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def params(sim_model):
    tokenizer = load_tokenizer(sim_model, read_model_info(sim_model))

    def build(request):
        return after_prompt(sampling_params(request, tokenizer, LIMITS), request, LIMITS, 96, "prompt")

    return build


def completion(**fields):
    return CompletionRequest(prompt="hi", **{"seed": 1} | fields)


def chat(**fields):
    return ChatCompletionRequest(messages=MESSAGES, **{"seed": 1} | fields)


def test_the_defaults_change_nothing(params):
    expected = SamplingParams(max_tokens=4000, seed=1, stop_token_ids=frozenset({0}))
    assert params(completion()) == params(chat()) == expected
    assert not expected.shapes_logits
    given = {name: None for name in CompletionRequest.model_fields if name not in {"prompt", "seed"}}
    assert params(completion(**{name: value for name, value in given.items() if name != "stop"})) == expected


FIELDS = {
    "max_tokens": (7, {"max_tokens": 7}),
    "temperature": (0.5, {"temperature": 0.5}),
    "top_p": (0.25, {"top_p": 0.25}),
    "top_k": (5, {"top_k": 5}),
    "seed": (-1, {"seed": 2**63 - 1}),
    "min_tokens": (3, {"min_tokens": 3}),
    "ignore_eos": (True, {"stop_token_ids": frozenset()}),
    "stop_token_ids": ([5, 6], {"stop_token_ids": frozenset({0, 5, 6})}),
    "min_p": (0.125, {"min_p": 0.125}),
    "presence_penalty": (-2, {"presence_penalty": -2}),
    "frequency_penalty": (2, {"frequency_penalty": 2}),
    "repetition_penalty": (1.5, {"repetition_penalty": 1.5}),
    "logit_bias": ({"5": -100, "70": 0.5}, {"logit_bias": ((5, -100.0), (70, 0.5))}),
    "bad_words": (["ab", " c"], {"bad_words": ((1, 2), (63, 1, 2), (3,), (63, 3))}),  # 63 is a space
    "allowed_token_ids": ([5, 6], {"allowed_token_ids": (5, 6)}),
    "prompt_logprobs": (2, {"prompt_logprobs": 2}),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_arrives_at_its_place_and_at_no_other(params, name):
    value, changed = FIELDS[name]
    for request in (completion, chat):
        default, asked = params(request()), params(request(**{name: value}))
        different = {field for field in SamplingParams.__slots__ if getattr(default, field) != getattr(asked, field)}
        assert {field: getattr(asked, field) for field in different} == changed


def test_log_probabilities(params):
    assert params(completion(logprobs=0)).logprobs == 0
    assert params(completion(logprobs=3)).prompt_logprobs is None
    assert params(completion(logprobs=3, echo=True)).prompt_logprobs == 3
    assert params(completion(logprobs=3, echo=True, prompt_logprobs=5)).prompt_logprobs == 5
    assert params(completion(echo=True)).prompt_logprobs is None
    assert params(chat(logprobs=True)).logprobs == 0
    assert params(chat(logprobs=True, top_logprobs=20)).logprobs == 20
    assert params(chat(logprobs=False, top_logprobs=0)).logprobs is None


def test_without_a_seed_each_prompt_has_its_own(params):
    request = CompletionRequest(prompt=["same", "same"])
    assert params(request).seed != params(request).seed


def test_an_echo_alone_still_has_the_engine_make_a_token(params):
    assert params(completion(max_tokens=0, echo=True)).max_tokens == 1


def test_a_bad_word_without_tokens_is_refused_by_its_place(params):
    with pytest.raises(RequestError, match=r"bad_words\[1\]: '€' has no tokens"):
        params(completion(bad_words=["a", "€"]))
