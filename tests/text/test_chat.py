from __future__ import annotations

from pathlib import Path

import pytest

from scope_cpp.engine.chat import format_chat
from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError
from scope_cpp.reference.tiny_model import write_tiny_model

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def test_the_models_own_template(model: Model) -> None:
    prompt, stops = format_chat(model, CHAT)
    assert prompt == "[system] Be brief.\n[user] Hi\n[assistant] "
    assert stops == ["</s>"]
    tokens = model.tokenize(prompt, add_special=True, parse_special=True)
    assert tokens.count(model.bos_token) == 1


def test_another_template(model: Model) -> None:
    prompt, _ = format_chat(model, CHAT, "{{ messages[-1]['content'] }}{{ eos_token }}")
    assert prompt == "Hi</s>"


def test_without_a_template(tmp_path: Path) -> None:
    with (
        Model.load(write_tiny_model(tmp_path / "m.gguf")) as bare,
        pytest.raises(UsageError, match="--chat-template"),
    ):
        format_chat(bare, CHAT)


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("line one\n{% for %}", r"line 2"),
        ("{{ raise_exception('only user turns') }}", "only user turns"),
        ("{{ messages[9].content.upper() }}", "no element 9"),
        ("{{ 1 / 0 }}", "division by zero"),
        # the sandbox: a template comes with the file of a stranger
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "[Rr]ange"),
    ],
)
def test_a_template_that_fails(model: Model, template: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause) as err:
        format_chat(model, CHAT, template)
    assert "chat template failed" in str(err.value)
    assert "\n" not in str(err.value)


@pytest.mark.parametrize(
    ("messages", "cause"),
    [
        ([], "no message"),
        ([{"role": "user"}], "message 0 .* no content"),
        ([*CHAT, {"content": "x"}], "message 2 .* no role"),
        (["hello"], "message 0 .* no role"),
    ],
)
def test_messages_of_another_form(model: Model, messages: list[dict[str, str]], cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        format_chat(model, messages)
