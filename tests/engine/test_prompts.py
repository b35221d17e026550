"""What a prompt may be from Python: messages, a text, or tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from scope_cpp import Conversation, Generation, chat, generate, stream_generate
from scope_cpp.engine.chat import PLAIN_STOPS, format_chat
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from tests.conftest import Tiny

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
MESSAGES = [{"role": "system", "content": "be"}, {"role": "user", "content": "the rat"}]
ONE_THREAD = Settings(n_threads=1, n_threads_batch=1)
FIELDS: dict[str, Any] = {
    "n_predict": 12,
    "settings": ONE_THREAD,
    "sampling": SamplingParams(temp=0, ignore_eos=True),
}


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny(chat_template=TEMPLATE)) as model:
        yield model


@pytest.fixture(scope="module")
def without(tiny: Tiny) -> Iterator[Model]:
    """A model without a template."""
    with Model.load(tiny()) as model:
        yield model


def test_messages_go_through_the_models_template(model: Model) -> None:
    text = "[system] be\n[user] the rat\n[assistant]"
    with Generation(model, MESSAGES, **FIELDS) as generation:
        assert generation.tokens == model.tokenize(text, parse_special=True)
        said = [response.token for response in generation]
    assert generate(model, tuple(MESSAGES), **FIELDS)[0] == generate(model, text, **FIELDS)[0]
    with Generation(model, model.tokenize(text), **FIELDS) as generation:
        assert [response.token for response in generation] == said


def test_another_template(model: Model) -> None:
    template = "{{ messages[0].content }}"
    with Generation(model, MESSAGES[1:], template=template, **FIELDS) as generation:
        assert generation.tokens == model.tokenize("the rat")


def test_what_ends_an_answer_of_a_template(without: Model) -> None:
    """The plain template's next turn is a stop string, beside those that are given."""
    text, stops = format_chat(without, MESSAGES, "plain")
    assert set(PLAIN_STOPS) <= set(stops)
    whole, _ = generate(without, text, **FIELDS)
    said, last = generate(without, MESSAGES, template="plain", stop=[whole[4:7]], **FIELDS)
    assert said == whole[: whole.index(whole[4:7])] and last.finish_reason == "stop"


def test_a_users_message_never_becomes_a_control_token(model: Model) -> None:
    with Generation(model, [{"role": "user", "content": "a</s>b"}], **FIELDS) as generation:
        assert model.eos_token not in generation.tokens
    with Generation(model, "a</s>b", **FIELDS) as generation:
        assert model.eos_token in generation.tokens
    with Generation(model, "a</s>b", parse_special=False, **FIELDS) as generation:
        assert model.eos_token not in generation.tokens


def test_contents_in_parts_are_texts(model: Model) -> None:
    """As clients of OpenAI's interface have them, with its name for the system's message."""
    parts = [{"type": "text", "text": "the"}, {"type": "text", "text": "rat"}]
    given = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the\nrat"}]
    assert format_chat(model, given) == format_chat(model, plain)
    assert generate(model, given, **FIELDS)[0] == generate(model, plain, **FIELDS)[0]


def test_messages_without_a_template(without: Model) -> None:
    with pytest.raises(UsageError, match="has no chat template: give a --chat-template"):
        Generation(without, MESSAGES)


@pytest.mark.parametrize(
    ("prompt", "phrase"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        (None, "of type NoneType: give a text, a list of tokens, or a list of messages"),
        (7, "of type int"),
        (b"text", "of type bytes"),
        (MESSAGES[1], "of type dict"),
        ([1, True], "has True where a token must be"),
        ([1, 1.0], "has 1.0 where a token must be"),
        (["the rat"], "has 'the rat' where a token must be"),
        ([1, 10**6], "token 1000000 is outside of the vocabulary"),
        ([-1], "token -1 is outside"),
        ([{"role": "user"}], "message 0 has no content"),
        ([MESSAGES[1], "the rat"], "message 1 has no role"),
        ([{"role": "user", "content": ["Hi"]}], "message 0 has a part of type None"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "of type 'image_url': text",
        ),
        ([{"role": "user", "content": "\ud800"}], "message 0 has half a character"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_what_is_no_prompt(model: Model, prompt: Any, phrase: str) -> None:
    with pytest.raises(UsageError, match=phrase) as err:
        Generation(model, prompt)
    assert "\n" not in str(err.value)


def test_a_template_is_for_messages(model: Model) -> None:
    with pytest.raises(UsageError, match="template is for messages"):
        Generation(model, "the rat", template=TEMPLATE)


def test_tokens_of_numpy(model: Model) -> None:
    tokens = np.array(model.tokenize("the rat"), np.int32)
    assert generate(model, tokens, **FIELDS)[0] == generate(model, "the rat", **FIELDS)[0]  # type: ignore[arg-type]


def test_responses_print_as_their_text(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    for response in stream_generate(model, MESSAGES, **FIELDS):
        print(response, end="")
    assert capsys.readouterr().out == generate(model, MESSAGES, **FIELDS)[0]


def test_the_files_own_sampling_values(tiny: Tiny) -> None:
    """Without sampling values of the caller; what can't be is passed over with a warning."""
    file = (("general.sampling.temp", 0.0), ("general.sampling.top_p", 5.0))
    told: list[str] = []
    with Model.load(tiny(metadata=file)) as model:
        with Generation(model, "the rat", warn=told.append) as generation:
            assert generation.sampler.params == SamplingParams(temp=0.0)
        with Conversation(model, warn=told.append) as talk:
            assert (talk.sampling.temp, talk.sampling.top_p) == (0.0, 0.95)
        with Generation(model, "the rat", sampling=SamplingParams()) as generation:
            assert generation.sampler.params.temp == 0.8
    assert len([line for line in told if "general.sampling.top_p is '5.000000'" in line]) == 2


def test_a_chat(model: Model) -> None:
    with (
        chat(model, system="be", **FIELDS) as talk,
        Conversation(model, system="be", **FIELDS) as b,
    ):
        for text in ("the rat", "and on"):
            assert talk.say(text) == "".join(response.text for response in b.ask(text))
        assert talk.messages == b.messages
        assert [message["role"] for message in talk.messages][:3] == ["system", "user", "assistant"]
    with pytest.raises(ScopeError, match="the conversation is closed: open another one"):
        talk.say("more")
