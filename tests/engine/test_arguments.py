"""Arguments of wrong kinds, from Python: one line that names the argument and what it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp import Conversation, Generation, Model, SamplingParams, Settings, chat, generate
from scope_cpp.engine.arguments import check, checked
from scope_cpp.engine.parallel import ParallelEngine, Request
from scope_cpp.errors import ScopeError, UsageError
from tests.conftest import Tiny

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
WHOLE = "a whole number or None"


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny(chat_template=TEMPLATE)) as model:
        yield model


KINDS: list[tuple[Any, list[Any], list[Any], str]] = [
    (int, [0, -1, np.int32(7), 2**40], [True, 1.0, "1", None, 1j], "a whole number"),
    (float, [0, 1.5, np.float32(0.5), Fraction(1, 2)], [True, "1", None, 1j], "a number"),
    (str, ["", "a"], [b"a", 5, None, ["a"]], "a text"),
    (bool, [True, False], [0, 1, "yes", None], "True or False"),
    (int | None, [None, 3], ["x"], "a whole number or None"),
    (str | int | None, [None, 3, "x"], [1.5], "a text, a whole number or None"),
    (str | Path, ["a", Path("a")], [5, b"a"], "a text or a path"),
    (Sequence[str], [[], ("a",), ["a", "b"]], ["ab", [1], {"a": 1}, {"a"}, 3], "a list of texts"),
    (
        Sequence[int],
        [range(3), np.arange(3), ()],
        [[1.5], "12", b"12", np.array(3), list],
        "a list of whole numbers",
    ),
    (tuple[str, ...], [["a"], ()], ["a", [None]], "a list of texts"),
    (
        Mapping[int, float],
        [{}, {1: 2}, {np.int64(1): 0.5}],
        [{"1": 2}, {1: "x"}, [(1, 2)]],
        "a mapping of whole numbers to numbers",
    ),
    (Callable[[str], None], [print], ["print", None], "a function"),
    (Settings | None, [None, Settings()], [{"budget": 5}, "x"], "a scope_cpp.Settings or None"),
    (Hashable, ["x", (1, 2), None], [["x"], {}], "a text, a number or a tuple of them"),
    (Any, [None, 5, "x"], [], ""),
]


@pytest.mark.parametrize(("kind", "taken", "refused", "wanted"), KINDS, ids=lambda x: str(x)[:20])
def test_every_kind(kind: Any, taken: list[Any], refused: list[Any], wanted: str) -> None:
    for value in taken:
        found = check("it", value, kind)
        assert found == value if not hasattr(value, "__len__") else list(found) == list(value)
        assert type(found).__module__ != "numpy"
    for value in refused:
        with pytest.raises(UsageError) as err:
            check("it", value, kind)
        assert str(err.value).startswith("it is ") and str(err.value).endswith(f": give {wanted}")


def test_a_long_value_is_shown_in_short() -> None:
    with pytest.raises(UsageError) as err:
        check("it", "a\n" * 10**6, int)
    assert len(str(err.value)) < 120


def test_what_the_call_itself_refuses() -> None:
    """A missing argument, or one that there is not, is Python's own business."""

    @checked("free")
    def call(a: int, *, free: int = 0) -> int:
        return a

    assert call(1, free="x") == 1  # type: ignore[arg-type]
    for args, more in (((), {}), ((1, 2), {}), ((1,), {"no": 1})):
        with pytest.raises(TypeError, match="argument"):
            call(*args, **more)  # type: ignore[arg-type]


GENERATION: list[tuple[dict[str, Any], str]] = [
    ({"n_predict": "x"}, f"n_predict is 'x': give {WHOLE}"),
    ({"n_predict": 5.0}, f"n_predict is 5.0: give {WHOLE}"),
    ({"n_predict": True}, f"n_predict is True: give {WHOLE}"),
    ({"n_predict": -5}, "the longest (output|answer) is -5 tokens: give at least 1"),
    ({"settings": {"budget": 5}}, "settings is {'budget': 5}: give a scope_cpp.Settings or None"),
    ({"sampling": {"temp": 0}}, "sampling is {'temp': 0}: give a scope_cpp.SamplingParams or None"),
    ({"sampling": 0}, "sampling is 0: give a scope_cpp.SamplingParams or None"),
    ({"stop": 3}, "stop is 3: give a list of texts"),
    ({"stop": "end"}, r"stop is 'end': give a list of texts"),
    ({"stop": ["a", 3]}, r"stop is \['a', 3\]: give a list of texts"),
    ({"stop": None}, "stop is None: give a list of texts"),
    ({"template": 5}, "template is 5: give a text or None"),
    ({"warn": "x"}, "warn is 'x': give a function"),
]


@pytest.mark.parametrize(("fields", "line"), GENERATION, ids=lambda x: str(x)[:30])
@pytest.mark.parametrize("make", [generate, Generation, chat, Conversation])
def test_of_a_generation_or_a_conversation(
    model: Model, make: Callable[..., Any], fields: dict[str, Any], line: str
) -> None:
    prompts = ([{"role": "user", "content": "the rat"}],) if make in (generate, Generation) else ()
    with pytest.raises(UsageError, match=f"^{line}"):
        make(model, *prompts, **fields)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"n_parallel": "x"}, "n_parallel is 'x': give a whole number"),
        ({"n_cells": 1.5}, "n_cells is 1.5: give a whole number"),
        ({"prefix_cells": None}, "prefix_cells is None: give a whole number"),
        ({"settings": {}}, "settings is {}: give a scope_cpp.Settings or None"),
        ({"model": "model.gguf"}, "model is 'model.gguf': give a scope_cpp.Model"),
    ],
)
def test_of_an_engine(model: Model, fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=f"^{line}"):
        ParallelEngine(**({"model": model, "n_parallel": 2, "n_cells": 256} | fields))


REQUEST: list[tuple[dict[str, Any], str]] = [
    ({"prompt": 5}, "prompt is 5: give a text or a list of tokens"),
    ({"prompt": None}, "prompt is None: give a text or a list of tokens"),
    ({"prompt": np.array(5)}, r"prompt is array\(5\): give a text or a list"),
    ({"n_predict": "x"}, f"n_predict is 'x': give {WHOLE}"),
    ({"settings": {}}, "settings is {}: give a scope_cpp.Settings or None"),
    ({"sampling": None}, "sampling is None: give a scope_cpp.SamplingParams"),
    ({"stop": "END"}, "stop is 'END': give a list of texts"),
    ({"parse_special": 1}, "parse_special is 1: give True or False"),
    ({"logprobs": 0.5}, f"logprobs is 0.5: give {WHOLE}"),
    ({"schema": {}}, "schema is {}: give a scope_cpp.CompiledSchema or None"),
]


@pytest.mark.parametrize(("given", "line"), REQUEST, ids=lambda x: str(x)[:30])
def test_of_a_row(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=f"^{line}"):
        Request(**({"prompt": "the rat"} | given))


def test_of_what_an_engine_is_told(model: Model) -> None:
    one = Settings(n_threads=1)
    with ParallelEngine(model, n_parallel=1, n_cells=256, settings=one) as engine:
        for do in (engine.worst_case, lambda it: engine.submit(it, 1)):
            with pytest.raises(UsageError, match="request is 'x': give a scope_cpp.Request"):
                do("x")  # type: ignore[operator]
        for prompt in ([1.5], ["a"], [True], np.array([0.5]), [{"role": "user", "content": "Hi"}]):
            with pytest.raises(UsageError, match="the prompt has .* where a token must be"):
                engine.submit(Request(prompt), 1)  # type: ignore[arg-type]
        key: Any = ["row"]
        for do in (lambda it: engine.submit(Request("a"), it), engine.cancel, engine.positions):
            with pytest.raises(UsageError, match=r"key is \['row'\]: give a text, a number"):
                do(key)  # type: ignore[operator]


@pytest.mark.parametrize("cls", [Request, SamplingParams, Settings])
def test_no_field_takes_anything(cls: type[Any]) -> None:
    """One that is added has a check, too."""
    given = {"prompt": "the rat"} if cls is Request else {}
    for item in fields(cls):
        with pytest.raises(UsageError, match=f"^{item.name} "):
            cls(**(given | {item.name: object()}))


# what `Settings` checks; what checks tokens itself
CHECKED_OTHERWISE = {"Conversation.set_budget", "Conversation.set_policy", "Model.is_eog"}


@pytest.mark.parametrize("cls", [Conversation, Generation, Model, ParallelEngine])
def test_every_method_checks_what_it_is_given(cls: type[Any]) -> None:
    for name, method in inspect.getmembers(cls, callable):
        if name.startswith("_") or name in ("adopt", "close"):
            continue
        parameters = inspect.signature(method).parameters.keys() - {"self"}
        spelled = f"{cls.__name__}.{name}"
        assert not parameters or hasattr(method, "__wrapped__") or spelled in CHECKED_OTHERWISE


def test_what_only_one_of_them_takes(model: Model) -> None:
    for wrong, line in (
        ("model.gguf", "model is 'model.gguf': give a scope_cpp.Model"),
        (None, "model is None: give a scope_cpp.Model"),
    ):
        for make in (lambda it: generate(it, "the rat"), chat):
            with pytest.raises(UsageError, match=line):
                make(wrong)  # type: ignore[operator]
    with pytest.raises(UsageError, match="parse_special is 'no': give True or False"):
        generate(model, "the rat", parse_special="no")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="system is 5: give a text or None"):
        chat(model, system=5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the prompt is of type set"):
        generate(model, {1, 2})  # type: ignore[arg-type]


TALK: list[tuple[Callable[[Conversation], Any], str]] = [
    (lambda talk: talk.ask(5), "text is 5: give a text"),
    (lambda talk: talk.say(None), "text is None: give a text"),
    (lambda talk: talk.edit(b"x"), "text is b'x': give a text"),
    (lambda talk: talk.set_system(5), "text is 5: give a text or None"),
    (lambda talk: talk.set_sampling({"temp": 0}), "params is {'temp': 0}: give a scope_cpp.Sampl"),
    (lambda talk: talk.set_policy(policy=5), "policy is 5: give a text or None"),
    (lambda talk: talk.set_policy(options="x=1"), "options is 'x=1': give a list of texts"),
    (lambda talk: talk.set_budget([5]), r"budget '\[5\]' is not understood: give cells"),
    (lambda talk: talk.kept("x", 0), "layer is 'x': give a whole number"),
    (lambda talk: talk.kept(0, 99), "head 99"),
    (lambda talk: talk.save(5), "path is 5: give a text or a path"),
    (lambda talk: talk.load(None), "path is None: give a text or a path"),
    (lambda talk: Conversation.resume(talk.model, 5), "path is 5: give a text or a path"),
    (
        lambda talk: Conversation.resume(talk.model, "x", compute=5),
        "compute is 5: give a scope_cpp",
    ),
    (lambda talk: Conversation.resume(talk.model, "x", warn="no"), "warn is 'no': give a function"),
    (lambda talk: Conversation.resume("m.gguf", "x"), "model is 'm.gguf': give a scope_cpp.Model"),
    (lambda talk: setattr(talk, "n_predict", "x"), f"n_predict is 'x': give {WHOLE}"),
    (lambda talk: setattr(talk, "n_predict", 0), "the longest answer is 0 tokens"),
]


@pytest.mark.parametrize(("do", "line"), TALK, ids=[line[:25] for _, line in TALK])
def test_of_what_a_conversation_is_told(
    model: Model, do: Callable[[Conversation], Any], line: str
) -> None:
    with chat(model, settings=Settings(budget=200, n_threads=1), n_predict=3) as talk:
        with pytest.raises(UsageError, match=line):
            do(talk)
        talk.say("the rat")
        assert [message["role"] for message in talk.messages] == ["user", "assistant"]


MODEL: list[tuple[Callable[[Model], Any], str]] = [
    (lambda model: model.tokenize(5), "text is 5: give a text"),
    (lambda model: model.tokenize(b"x"), "text is b'x': give a text"),
    (lambda model: model.tokenize("x", add_special=1), "add_special is 1: give True or False"),
    (lambda model: model.detokenize("x"), "tokens is 'x': give a list of whole numbers"),
    (lambda model: model.detokenize([1, 2.5]), r"tokens is \[1, 2.5\]: give a list of whole"),
    (lambda model: model.detokenize([-1]), "token -1 is outside of the vocabulary of"),
    (lambda model: model.detokenize([2**70]), "token 1180591620717411303424 is outside"),
    (lambda model: model.token_to_piece("x"), "token 'x' is outside of the vocabulary of"),
    (
        lambda model: model.token_to_piece(5, special=np.arange(2)),
        r"special is array\(\[0, 1\]\): give True or False",
    ),
    (lambda model: model.is_eog(None), "token None is outside of the vocabulary of"),
    (lambda model: model.metadata(5), "key is 5: give a text"),
]


@pytest.mark.parametrize(("do", "line"), MODEL, ids=[line[:25] for _, line in MODEL])
def test_of_a_model(model: Model, do: Callable[[Model], Any], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        do(model)


LOADING: list[tuple[dict[str, Any], str]] = [
    ({"path": 5}, "path is 5: give a text or a path"),
    ({"path": None}, "path is None: give a text or a path"),
    ({"path": b"x.gguf"}, "path is b'x.gguf': give a text or a path"),
    ({"n_gpu_layers": "all"}, f"n_gpu_layers is 'all': give {WHOLE}"),
    ({"n_gpu_layers": 2**32}, "n_gpu_layers is 4294967296: give a whole number within"),
    ({"use_mmap": "no"}, "use_mmap is 'no': give True or False"),
    ({"main_gpu": -1}, "main_gpu is -1: give a whole number within 0 to"),
    ({"main_gpu": 2**40}, "main_gpu is 1099511627776: give a whole number within"),
    ({"split_mode": 1}, "split_mode is 1: give a text or None"),
    ({"split_mode": "x"}, "unknown split mode 'x'"),
    ({"tensor_split": 5}, "tensor_split is 5: give a list of numbers or None"),
    ({"tensor_split": ["1"]}, r"tensor_split is \['1'\]: give a list of numbers or None"),
    ({"tensor_split": [-1.0]}, "tensor_split is -1.0: give a number within 0 to"),
    ({"tensor_split": [float("nan")]}, "tensor_split is nan: give a number within"),
    ({"n_vocab": 0, "no_alloc": True}, "n_vocab is 0: give a whole number within 1 to"),
]


@pytest.mark.parametrize(("fields", "line"), LOADING, ids=lambda x: str(x)[:30])
def test_of_loading_a_model(tiny: Tiny, fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        Model.load(**({"path": tiny()} | fields))


@pytest.mark.parametrize("name", ["policy", "prefill", "granularity", "type_k", "flash_attn"])
@pytest.mark.parametrize("value", [5, b"h2o", ["h2o"]])
def test_texts_of_settings(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} is .*: give a text"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"prefill": None}, "prefill is None: give a text"),
        ({"options": {"beta1": 5}}, "options is {'beta1': 5}: give a list of texts"),
        ({"options": [5]}, r"options is \[5\]: give a list of texts"),
        ({"ctx_size": "x"}, f"ctx_size is 'x': give {WHOLE}"),
        ({"n_batch": "x"}, "n_batch is 'x': give a whole number within"),
        ({"n_threads": None}, "n_threads is None: give a whole number within"),
        ({"offload_kqv": 1}, "offload_kqv is 1: give True or False"),
    ],
)
def test_other_settings(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=f"^{line}"):
        Settings(**fields)


def test_settings_are_pythons_own_values() -> None:
    given = Settings("scope-slide", options=["beta1=5"], n_batch=np.int64(8), ctx_size=np.int32(9))  # type: ignore[arg-type]
    assert given == Settings("scope-slide", options=("beta1=5",), n_batch=8, ctx_size=9)
    assert hash(given) and type(given.n_batch) is type(given.ctx_size) is int


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"grammar": 5}, "grammar is 5: give a text or None"),
        ({"json_schema": {"type": "object"}}, "json_schema is {'type': 'object'}: give a text"),
        ({"logit_bias": [5]}, r"logit_bias is \[5\]: give a mapping of whole numbers to numbers"),
        ({"logit_bias": {"5": 1}}, "logit_bias is {'5': 1}: give a mapping of whole numbers"),
        ({"logit_bias": {-1: 1}}, "a token of logit_bias is -1: give a whole number within 0"),
        ({"ignore_eos": "no"}, "ignore_eos is 'no': give True or False"),
    ],
)
def test_sampling_values_that_are_no_numbers(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=f"^{line}"):
        SamplingParams(**fields)


def test_tokens_beyond_what_the_model_has(model: Model) -> None:
    for token in (-1, model.n_vocab, 2**31, 2**70):
        with pytest.raises(ScopeError, match=f"token {token} is outside of the vocabulary"):
            generate(model, [1, token])
        with pytest.raises(ScopeError, match="token|whole number within"):
            generate(model, "the rat", sampling=SamplingParams(logit_bias={token: 1.0}))
