"""Names, options and entry points: what is wrong is named, with what would be right."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.policies import (
    DecodePolicy,
    Step,
    View,
    decode_names,
    decode_policies,
    find_decode,
    find_prefill,
    make_decode,
    make_prefill,
    option,
    parse_options,
    prefill_names,
    prefill_policies,
    split_options,
    valid_options,
)

DECODE = [
    "full", "streaming-llm", "h2o", "scope-slide", "scope-foresight",
    "scope-retrieval", "scope-adaptive",
    "scope-discontinuous", "tova", "vatp", "r-kv", "g-kv", "openvino", "pyramidinfer",
]  # fmt: skip
PREFILL = ["full", "h2o", "snapkv", "streaming-llm", "pyramidkv", "pyramidinfer"]


@dataclass(frozen=True)
class EveryOther(DecodePolicy):
    """A third party's policy."""

    name: ClassVar[str] = "every-other"
    stride: int = option(2, "tokens per kept token", low=1)

    def capacity(self, n_prompt_cells: int, n_predict: int | None) -> int:
        return n_prompt_cells + 100

    def due(self, step: Step) -> bool:
        return step.n_cells > 100

    def select(self, view: View) -> np.ndarray:
        return view.pos % self.stride == 0


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Pretend that a package registers ``name = "value"`` as a decode policy."""
    group = "scope_cpp.decode_policies"
    entry = importlib.metadata.EntryPoint(name=name, value=value, group=group)

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [entry] if group == entry.group else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_built_in_names() -> None:
    assert list(decode_policies())[: len(DECODE)] == DECODE
    assert list(prefill_policies())[: len(PREFILL)] == PREFILL
    for name, cls in [*decode_policies().items(), *prefill_policies().items()]:
        assert cls.name == name


def test_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "every-other", f"{__name__}:EveryOther")
    assert decode_policies()["every-other"] is EveryOther
    assert make_decode("every-other", {"stride": "3"}) == EveryOther(stride=3)
    assert "every-other" not in prefill_policies()
    with pytest.raises(UsageError, match=r"valid are full, .*every-other"):
        make_decode("nope", {})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("broken", "no_such_module_anywhere:Policy", "cannot be loaded: No module"),
        ("broken", f"{__name__}:install", "must be a DecodePolicy"),
        ("other-name", f"{__name__}:EveryOther", "of that name"),
        ("h2o", f"{__name__}:EveryOther", "registered twice"),
    ],
)
def test_bad_entry_point_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    install(monkeypatch, name, value)
    with pytest.raises(ScopeError, match=message) as refusal:
        decode_policies()
    assert repr(name) in str(refusal.value)
    assert make_decode("full", {}).name == "full"  # does not stand in the way of the others


def test_names_are_those_of_the_classes() -> None:
    for names, classes in ((decode_names, decode_policies), (prefill_names, prefill_policies)):
        assert names() == list(classes()) == [cls.name for cls in classes().values()]


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(UsageError, match="unknown policy 'scop'; valid are full, streaming-llm"):
        make_decode("scop", {})
    with pytest.raises(UsageError, match="unknown prefill policy 'x'; valid are full, h2o, snapkv"):
        make_prefill("x", {})


def test_options_are_the_fields() -> None:
    policy = make_decode("scope-slide", {"beta1": "48", "beta2": "auto", "decay": "0.5"})
    assert (policy.beta1, policy.beta2, policy.decay) == (48, None, 0.5)
    assert list(valid_options(type(policy))) == [
        "score", "window", "decay", "power", "lifetime", "values", "mix", "mix_over", "mix_by",
        "redundancy", "smooth", "smooth_by", "span", "ahead", "ahead_weight", "unlike", "grace",
        "beta1", "beta2", "interval",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "scope-slide",
            {"beta3": "1"},
            r"policy scope-slide has no option 'beta3' \(did you mean beta2 or beta1\?\); the "
            "options of scope-slide are score",
        ),
        ("full", {"beta1": "1"}, "policy full has no option 'beta1'; it has no options"),
        ("scope-slide", {"beta1": "many"}, "beta1=many must be a whole number"),
        ("scope-slide", {"beta1": "1.5"}, "beta1=1.5 must be a whole number"),
        ("scope-slide", {"decay": "slow"}, "decay=slow must be a number"),
        ("h2o", {"span": "auto"}, "span=auto must be a whole number"),
        ("scope-slide", {"beta1": "-1"}, "beta1=-1: must be at least 0; valid are score"),
        ("scope-slide", {"beta2": "0"}, "beta2=0: must be at least 1"),
        ("scope-slide", {"decay": "1.1"}, "at most 1"),
        ("scope-slide", {"decay": "nan"}, "decay=nan: must be at least 0"),
        ("h2o", {"score": "mean"}, "score=mean; valid are accumulate, window, last"),
        ("h2o", {"smooth": "4"}, "smooth=4: must be odd"),
        ("tova", {"mix": "1.5"}, "mix=1.5: must be at least 0 and at most 1"),
        ("scope-adaptive", {"growth": "fast"}, "growth=fast; valid are line, steps"),
    ],
)
def test_bad_options(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        make_decode(name, options)
    assert "\n" not in str(refusal.value)


def test_bad_prefill_options() -> None:
    with pytest.raises(UsageError, match="kernel=4: must be odd"):
        make_prefill("snapkv", {"kernel": "4"})
    with pytest.raises(UsageError, match="valid are avg, max"):
        make_prefill("snapkv", {"pooling": "sum"})


def test_parse_options() -> None:
    assert parse_options(["beta1=48", " decay = .5", "beta1=49"]) == {"beta1": "49", "decay": ".5"}
    assert parse_options([]) == {}
    for bad in ("beta1", "=3", "beta1=", ""):
        with pytest.raises(UsageError, match="key=value"):
            parse_options([bad])


def test_split_options() -> None:
    slide, snapkv = find_decode("scope-slide"), find_prefill("snapkv")
    options = {"beta1": "4", "alpha1": "9", "window": "7", "prefill.window": "8"}
    assert split_options(slide, snapkv, options) == (
        {"beta1": "4", "window": "7"},
        {"alpha1": "9", "window": "8"},
    )
    assert split_options(slide, snapkv, {"decode.window": "5"}) == ({"window": "5"}, {})
    for bad in ("beta3", "prefill.beta1", "other.beta1", ".beta1x"):
        with pytest.raises(UsageError, match=rf"no option '{bad}'|has an option '{bad}'"):
            split_options(slide, snapkv, {bad: "1"})


@pytest.mark.parametrize(
    ("decode", "prefill", "key", "line"),
    [
        ("scope-retrieval", "full", "beta1", "decode policy scope-retrieval has no option 'beta1', "
         "which is one of --policy scope-slide, .*; the options of scope-retrieval are heavy, "),
        ("scope-slide", "snapkv", "kernal", "neither decode policy scope-slide nor prefill policy "
         r"snapkv has an option 'kernal' \(did you mean kernel\?\); the options of scope-slide are "
         ".*; the options of snapkv are alpha1"),
        ("scope-slide", "full", "prefill.kernel", "prefill policy full has no option "
         "'prefill.kernel'; it has no options"),
        ("full", "full", "beta1", "decode policy full has no option 'beta1', which is one of"),
    ],
)  # fmt: skip
def test_an_unknown_option_is_answered_with_what_may_be_meant(
    decode: str, prefill: str, key: str, line: str
) -> None:
    policies = find_decode(decode), find_prefill(prefill)
    with pytest.raises(UsageError, match=f"^{line}"):
        split_options(*policies, {key: "1"}, decode_policies)


@pytest.mark.parametrize(
    ("find", "name", "meant"),
    [
        (find_decode, "H2O", " (did you mean h2o?)"),
        (find_decode, "Scope-Slide", " (did you mean scope-slide"),
        (find_decode, "snapkv", " (snapkv is one of --prefill: give --prefill snapkv)"),
        (find_decode, "SnapKV", " (snapkv is one of --prefill: give --prefill snapkv)"),
        (find_decode, "pyramid-kv", " (pyramidkv is one of --prefill: give --prefill pyramidkv)"),
        (find_prefill, "tova", " (tova is one of --policy: give --policy tova)"),
        (
            find_prefill,
            "scope-slide",
            " (scope-slide is one of --policy: give --policy scope-slide)",
        ),
        (find_prefill, "SNAPKV", " (did you mean snapkv?)"),
        (find_prefill, "nope", "; valid are full, h2o"),
    ],
)
def test_an_unknown_name_is_answered_with_what_was_meant(
    find: Callable[[str], Any], name: str, meant: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        find(name)
    assert str(refusal.value).partition(repr(name))[2].startswith(meant)


@pytest.mark.parametrize(
    ("find", "other", "flag"),
    [(find_decode, prefill_names, "--prefill"), (find_prefill, decode_names, "--policy")],
)
def test_every_name_of_the_other_kind_is_answered_with_its_flag(
    find: Callable[[str], Any], other: Callable[[], list[str]], flag: str
) -> None:
    own = decode_names() if find is find_decode else prefill_names()
    for name in set(other()) - set(own):
        with pytest.raises(UsageError) as refusal:
            find(name)
        assert f"({name} is one of {flag}: give {flag} {name}); valid" in str(refusal.value)
