"""A Python program is told the fields of settings, not the flags of the command."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from scope_cpp import Conversation, Model, Settings, UsageError, generate, wording
from scope_cpp.errors import ScopeError
from scope_cpp.wording import for_python
from tests.conftest import Tiny
from tests.serve.test_wording import FLAG, ROOT, texts

# what only the command comes to: files of the hub, and many texts at once
OF_THE_COMMAND = {"hub.py", "catalog.py", "demand.py"}


@pytest.fixture(autouse=True)
def _in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "_by_flags", False)


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Model:
    return Model.load(tiny())


TOLD: list[tuple[Callable[[Model], Any], str]] = [
    (lambda m: generate(m, "", n_predict=4), "the prompt is empty: give a text"),
    (lambda m: Settings(options="beta1=256"), "give a list of texts, such as ['beta1=48']"),
    (lambda m: Settings(options={"beta1": 256}), "give a list of texts, such as ['beta1=48']"),
    (lambda m: Model.load("smollm2"), "'scope inspect smollm2' downloads the model"),
    (lambda m: Settings(policy="snapkv"), "(snapkv is one of prefill: give prefill snapkv)"),
    (
        lambda m: Settings(type_v="q4_0", flash_attn="off"),
        "type_v q4_0 needs flash attention: leave flash_attn off out, or give type_v f16",
    ),
    (
        lambda m: generate(m, "x" * 40, n_predict=90, settings=Settings(policy="h2o", budget=30)),
        "give budget 42 or more, such as 131",
    ),
    (lambda m: generate(m, "xyz", settings=Settings(policy="full")), "give n_predict or ctx_size"),
    (lambda m: generate(m, "xyz", settings=Settings(ctx_size=2)), "ctx_size 2 leaves no room"),
]


@pytest.mark.parametrize(("call", "told"), TOLD, ids=[told[:30] for _, told in TOLD])
def test_errors_name_fields(model: Model, call: Callable[[Model], Any], told: str) -> None:
    with pytest.raises(UsageError) as refusal:
        call(model)
    assert told in str(refusal.value)
    assert not FLAG.findall(str(refusal.value))


def test_warnings_name_fields(model: Model) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Conversation(model, settings=Settings(policy="scope-slide", budget=200)):
            pass
    told = [str(warning.message) for warning in caught]
    assert any("option beta2=... helps" in line for line in told)
    assert any("; template gives one" in line for line in told)
    assert not [line for line in told if FLAG.findall(line)]


def test_the_command_names_flags() -> None:
    wording.speak_of_flags()
    assert "give --prefill snapkv" in str(_refused("snapkv"))


def _refused(policy: str) -> ScopeError:
    with pytest.raises(UsageError) as refusal:
        Settings(policy=policy)
    return refusal.value


@pytest.mark.parametrize("folder", ["engine", "policies"])
def test_no_flag_is_left_in_what_python_is_told(folder: str) -> None:
    left = {
        (path.name, flag)
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in OF_THE_COMMAND
        for text in texts(path)
        if " " in text
        for flag in FLAG.findall(for_python(text))
    }
    assert left == set()
