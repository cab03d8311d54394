"""Chat templates render as transformers renders them, and a request that they reject fails alone."""

from __future__ import annotations

import pytest

import models
from octavo_runtime.errors import ModelUnsupported, RequestError
from octavo_runtime.model.info import read_model_info
from octavo_runtime.text.chat import compile_template, render
from octavo_runtime.text.tokenizer import load_tokenizer

USER = {"role": "user", "content": "What is the capital of France?"}
CONVERSATIONS = [
    [USER],
    [{"role": "system", "content": "Be brief."}, USER],
    [USER, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "<b>And</b> of & 'Spain'?\n\n"}],
    [{"role": "user", "content": ""}],
]
# What the templates of other families use: tests, filters, macros, namespaces, loop controls, dates, generation marks.
TEMPLATE = """
{%- macro line(text) %}{{ text | trim }}
{% endmacro %}
{%- set state = namespace(count=0) %}
{%- for message in messages %}
    {%- if message.role == 'skip' %}{% continue %}{% endif %}
    {%- set state.count = state.count + 1 %}
    {%- if message['role'] not in ['user', 'assistant', 'system'] %}
        {{- raise_exception('Unknown role ' + message['role']) }}
    {%- endif %}
    {%- generation %}
{{ line(message.content) }}{{ message | tojson }}{% endgeneration %}
{%- endfor %}
{{ bos_token }}{{ state.count }} {{ strftime_now('%Y') | length }} {{ tools is none }}
{{ {'é': '<'} | tojson(indent=2) }}
{%- if add_generation_prompt %}>{% endif %}
"""


@pytest.mark.model
@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("prompt", [True, False])
def test_the_models_own_template(messages, prompt):
    from transformers import AutoTokenizer

    path = models.smollm2_gguf()
    ours = load_tokenizer(path, read_model_info(path))
    theirs = AutoTokenizer.from_pretrained(models.smollm2_safetensors())
    text = render(messages, ours.chat_template, add_generation_prompt=prompt, special_tokens=ours.special_tokens)
    assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


@pytest.mark.parametrize("messages", [*CONVERSATIONS, [{"role": "skip", "content": "x"}, USER]])
def test_what_other_families_use(messages):
    from transformers.utils.chat_template_utils import render_jinja_template

    (expected,), _ = render_jinja_template(
        [messages], chat_template=TEMPLATE, add_generation_prompt=True, bos_token="<s>", tools=None, documents=None
    )
    assert render(messages, TEMPLATE, special_tokens={"bos_token": "<s>"}) == expected


@pytest.mark.parametrize(
    ("messages", "template", "message"),
    [
        ([{"role": "robot", "content": "x"}], TEMPLATE, "Unknown role robot"),
        ([{"role": "user", "content": None}], "{{ 'a' + messages[0].content }}", "rejects these messages"),
        ([], "{{ messages[0]['role'] + '' }}", "rejects these messages"),
        ([USER], "{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_messages_that_the_template_rejects_are_the_requests_error(messages, template, message):
    with pytest.raises(RequestError, match=message) as caught:
        render(messages, template)
    assert (caught.value.param, caught.value.status) == ("messages", 400)


@pytest.mark.parametrize(
    "escape",
    ["{{ messages.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}"],
)
def test_a_template_cannot_leave_its_sandbox(escape):
    """No way to Python's internals, and no way to change what it was given."""
    with pytest.raises(RequestError):
        render([USER], escape)


def test_a_broken_template_is_found_when_it_is_compiled():
    with pytest.raises(ModelUnsupported, match="does not parse, line 2"):
        compile_template("\n{% if %}")


def test_a_template_does_not_change_the_messages():
    messages = [dict(USER)]
    render(messages, TEMPLATE)
    assert messages == [USER]
