"""Names in ``--rows`` that stand for all policies, scoring rules or prefill policies."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, fields
from typing import ClassVar

import pytest

from scope_cpp.errors import UsageError
from scope_cpp.eval.grid import Grid
from scope_cpp.eval.rows import Row
from scope_cpp.eval.sets import VARIANTS
from scope_cpp.policies import decode_policies, find_decode, prefill_policies
from scope_cpp.policies.scope_slide import ScopeSlide
from scope_cpp.policies.scored import ScoredDecodePolicy
from scope_cpp.policies.scores.folding import RULES


@dataclass(frozen=True)
class Newcomer(ScopeSlide):
    """A policy of another package."""

    name: ClassVar[str] = "newcomer"


def rows_of(*names: str, betas: tuple[int, ...] = (400,)) -> dict[str, Row]:
    return {row.name: row for row in Grid(names, betas=betas).rows(1)}


def test_methods_are_all_policies_at_every_budget() -> None:
    names = [name for name in decode_policies() if name != "full"]
    rows = rows_of("methods", betas=(200, 400))
    assert list(rows) == [
        "full",
        *(f"{name}, beta {beta}" for beta in (200, 400) for name in names),
    ]
    budgets = {row.beta: row.settings_for(1000, 4000).budget for row in list(rows.values())[1:]}
    assert budgets == {200: 1200, 400: 1400}


def test_a_policy_that_is_registered_is_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    group = "scope_cpp.decode_policies"
    entry = importlib.metadata.EntryPoint("newcomer", f"{__name__}:Newcomer", group)

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [entry] if group == entry.group else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert rows_of("methods")["newcomer"].settings.policy == "newcomer"


def test_a_method_of_the_set_is_as_by_its_name() -> None:
    methods = rows_of("methods")
    for name in ("h2o", "scope-slide", "scope-foresight", "tova"):
        assert methods[name] == rows_of(name)[name]


def test_scores_have_every_rule_and_every_option_that_ranks() -> None:
    names = rows_of("scores")
    for rule in RULES:
        assert f"scope-slide:score={rule}" in names or rule == "none"
    # an option that nobody varies is one that the table says nothing about
    ahead = fields(find_decode("scope-foresight"))
    foresight = {f.name for f in ahead if f.default != getattr(ScopeSlide, f.name)}
    varied = {text.partition("=")[0] for variant in VARIANTS for text in variant}
    details = {"score", "window", "smooth_by", "ahead_weight"}
    assert {f.name for f in fields(ScoredDecodePolicy)} <= varied | foresight | details


def test_prefills_are_all_under_one_policy() -> None:
    rows = Grid(("prefills",), budgets=("600", "800")).rows(1)[1:]
    names = [name for name in prefill_policies() if name != "full"]
    assert [row.settings.prefill for row in rows] == names * 2
    assert {row.settings.policy for row in rows} == {"scope-foresight"}
    assert [row.settings.budget for row in rows] == ["600"] * len(names) + ["800"] * len(names)
    assert rows[0].name == "prefill h2o, budget 600"


def test_options_of_a_set_are_those_of_its_rows() -> None:
    row = rows_of("scores:interval=2")["scope-slide:score=peak:interval=2"]
    assert row.settings.options == ("interval=2", "score=peak")
    with pytest.raises(
        UsageError,
        match="row 'streaming-llm:nonsense=1': decode policy streaming-llm has no option",
    ):
        rows_of("methods:nonsense=1")


def test_sets_go_beside_other_rows() -> None:
    rows = rows_of("openvino:span=16", "methods")
    assert rows["openvino:span=16"] != rows["openvino"]
