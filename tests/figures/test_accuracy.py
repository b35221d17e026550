"""Accuracy by question, by decode budget and by prefill budget: numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from scope_cpp.errors import UsageError
from scope_cpp.figures import style
from scope_cpp.figures.budget import apart, budget
from scope_cpp.figures.marks import UNICODE
from scope_cpp.figures.prefill import prefill, prompt_rows
from scope_cpp.figures.questions import questions
from scope_cpp.figures.runs import Run, open_run

from .make_run import N_PROMPT, make_run, row

# four samples of four questions: h2o loses the late ones
H2O = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]]
FULL = [[1, 1, 1, 1]] * 4


@pytest.fixture
def run(tmp_path: Path) -> Run:
    rows = {row("full"): FULL, row("h2o", 48): H2O}
    return open_run(str(make_run(tmp_path / "run", rows)))


@pytest.fixture
def budgets(tmp_path: Path) -> Run:
    rows = {
        row("full"): FULL,
        row("h2o, beta 48", 48, "h2o", policy="h2o"): H2O,
        row("h2o, beta 96", 96, "h2o", policy="h2o"): [[1, 1, 1, 0]] * 4,
        row("scope-slide, beta 96", 96, "scope-slide", policy="scope-slide"): FULL,
    }
    return open_run(str(make_run(tmp_path / "budgets", rows)))


def test_means_by_question(run: Run) -> None:
    records = questions(run).table().records()
    h2o = [record["score"] for record in records if record["row"] == "h2o"]
    assert h2o == [1.0, 0.5, 0.25, 0.0]
    assert [record["first_question"] for record in records[:4]] == [1, 2, 3, 4]
    assert {record["cells"] for record in records} == {48}
    assert records[4]["ci_low"] == records[4]["ci_high"] == 1.0  # all samples have it right
    low, high = records[5]["ci_low"], records[5]["ci_high"]
    assert isinstance(low, float) and isinstance(high, float)
    assert 0 <= low < 0.5 < high <= 1


def test_divergences_are_drawn_by_token(tmp_path: Path) -> None:
    growing = [[0.0] * 12 + [0.25] * 12, [0.0] * 12 + [0.75] * 12]
    rows = {row("full"): [[0.0] * 24] * 2}
    rows |= {
        row(f"h2o, beta {beta}", beta, "h2o", policy="h2o"): growing for beta in ("1/6", "1/3")
    }
    shown = questions(open_run(str(make_run(tmp_path / "run", rows, task="fidelity"))))
    assert (shown.per, shown.title) == (2, "KL divergence by token")
    assert shown.measure.label == "KL divergence (nats, lower is better)"
    records = [record for record in shown.table().records() if record["row"] == "h2o"]
    assert [record["score"] for record in records] == ([0.0] * 6 + [0.5] * 6) * 2
    assert [record["cells"] for record in records] == [17] * 12 + [33] * 12
    assert "17 % of the output beside the prompt" in shown.text(80, UNICODE)


def test_divergences_are_drawn_against_shares_of_the_output(tmp_path: Path) -> None:
    rows = {row("full"): [[0.001] * 8]}
    rows |= {
        row(f"h2o, beta {beta}", beta, "h2o", policy="h2o"): [[value] * 8]
        for beta, value in (("1/12", 0.5), ("1/3", 0.25))
    }
    run = open_run(str(make_run(tmp_path / "run", rows, task="fidelity")))
    shown = budget(run)
    assert shown.axis == "% of the output beside the prompt"
    assert [(r["row"], r["cells"], r["score"]) for r in shown.table().records()] == [
        ("full", None, pytest.approx(0.001)), ("h2o", 8, 0.5), ("h2o", 33, 0.25),
    ]  # fmt: skip
    mixed = {**rows, row("h2o, beta 9", 9, "h2o", policy="h2o"): [[0.2] * 8]}
    run = open_run(str(make_run(tmp_path / "mixed", mixed, task="fidelity")))
    with pytest.raises(UsageError, match="others shares of the output"):
        budget(run)


def test_divergences_have_a_logarithmic_axis_unless_all_are_zero(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for value, scale in ((0.25, "log"), (0.0, "linear")):
        rows = {row("full"): [[0.0] * 8]}
        for beta in ("1/12", "1/3"):
            rows[row(f"h2o, beta {beta}", beta, "h2o", policy="h2o")] = [[value] * 8]
        run = open_run(str(make_run(tmp_path / scale, rows, task="fidelity")))
        for shown in (budget(run), questions(run)):
            with style.canvas(shown.size) as canvas:
                shown.draw(canvas)
                canvas.draw_without_rendering()
                assert {axes.get_yscale() for axes in canvas.axes if axes.get_visible()} == {scale}


def test_outputs_of_different_lengths_and_bins(tmp_path: Path) -> None:
    # 26 questions in bins of 3: the last has 2, which only the first sample has
    rows = {row("full"): [[1] * 24 + [1, 0], [0] * 24]}
    shown = questions(open_run(str(make_run(tmp_path / "run", rows))))
    records = shown.table().records()
    assert shown.per == 3
    assert [(r["first_question"], r["last_question"]) for r in records[-2:]] == [(22, 24), (25, 26)]
    assert [r["score"] for r in records] == [0.5] * 8 + [0.5]
    assert records[0]["cells"] is None


def test_a_panel_for_each_budget_with_the_full_cache_in_each(budgets: Run) -> None:
    panels = questions(budgets).panels
    assert [panel.cells for panel in panels] == [48, 96]
    assert [[curve.name for curve in panel.curves] for panel in panels] == [
        ["full", "h2o"],
        ["full", "h2o", "scope-slide"],
    ]
    numbers = {curve.name: curve.number for panel in panels for curve in panel.curves}
    assert numbers == {"full": 0, "h2o": 1, "scope-slide": 2}


def test_rows_by_name(budgets: Run) -> None:
    panels = questions(budgets, ["full", "h2o, beta 96"]).panels
    assert [curve.name for panel in panels for curve in panel.curves] == ["full", "h2o"]
    with pytest.raises(UsageError, match="no row 'tova': rows are full, h2o, scope-slide"):
        questions(budgets, ["tova"])


def test_one_question_has_no_positions(tmp_path: Path) -> None:
    run = open_run(str(make_run(tmp_path / "run", {row("full"): [[1], [0]]})))
    with pytest.raises(UsageError, match="one question only"):
        questions(run)


def test_questions_in_a_terminal(run: Run) -> None:
    lines = questions(run).text(80, UNICODE).splitlines()
    assert lines[0].split() == ["full", "█" * 16, "100.0%", "to", "100.0%"]
    assert lines[1].split() == ["h2o", "████▄▄▄▄▂▂▂▂····", "100.0%", "to", "0.0%"]


def test_scores_by_budget(budgets: Run) -> None:
    shown = budget(budgets)
    records = shown.table().records()
    assert [(r["row"], r["cells"], r["score"]) for r in records] == [
        ("full", None, 1.0),
        ("h2o", 48, 7 / 16),
        ("h2o", 96, 0.75),
        ("scope-slide", 96, 1.0),
    ]
    low, high = records[1]["ci_low"], records[1]["ci_high"]
    assert isinstance(low, float) and isinstance(high, float)
    assert 0.25 <= low < 7 / 16 < high <= 0.75  # those of single samples
    assert shown.axis == "cells beside the prompt"


def test_many_methods_get_rows_whose_names_fit(tmp_path: Path) -> None:
    """The best on top; lines would cross, and their legend not fit."""
    pytest.importorskip("matplotlib")
    rows = {row("full"): FULL}
    for i in range(12):
        name = f"scope-slide:mix=0.5:mix_over=model:{i}"
        for beta in (48, 96):
            right = [[1] * (i + beta // 48) + [0] * (14 - i - beta // 48)] * 2
            rows[row(f"{name}, beta {beta}", beta, name, policy="scope-slide")] = right
    shown = budget(open_run(str(make_run(tmp_path / "many", rows))))
    with style.canvas(shown.size) as canvas:
        shown.draw(canvas)
        canvas.draw_without_rendering()
        (axes,) = canvas.axes
        labels = axes.get_yticklabels()
        assert [label.get_text()[-2:].lstrip(":") for label in labels] == list(map(str, range(12)))
        boxes = [label.get_window_extent() for label in labels]
        legend = canvas.legends[0]
        boxes.append(legend.get_window_extent())
        assert all(canvas.bbox.x0 <= box.x0 and box.x1 <= canvas.bbox.x1 for box in boxes)
        assert [text.get_text() for text in legend.get_texts()] == [
            "48 cells beside the prompt",
            "96 cells beside the prompt",
            "full cache",
        ]


def test_budgets_in_a_terminal(budgets: Run) -> None:
    lines = budget(budgets).text(80, UNICODE).splitlines()
    assert [line for line in lines if line.endswith("prompt")] == [
        "48 cells beside the prompt",
        "96 cells beside the prompt",
    ]
    few, many = (line for line in lines if line.startswith("h2o"))
    assert "43.8%" in few and "75.0%" in many
    assert few.count("█") < many.count("█")
    assert "▒" in few and "▒" not in many  # all samples agree
    assert max(map(len, lines)) <= 80


def test_one_sample_has_bars_without_intervals(tmp_path: Path) -> None:
    rows = {
        row(f"h2o, beta {beta}", beta, "h2o", policy="h2o"): [[1, 0, 0, 0]] for beta in (48, 96)
    }
    shown = budget(open_run(str(make_run(tmp_path / "one", rows))))
    lines = [line.split() for line in shown.text(80, UNICODE).splitlines() if "%" in line]
    assert [line[-1] for line in lines[:2]] == ["25.0%", "25.0%"]


def test_kv_types_are_series_of_their_own(tmp_path: Path) -> None:
    rows = {
        row(f"{policy}, {kind}", beta, policy, policy=policy, type_k=kind, type_v=kind): FULL
        for kind in ("f16", "q8_0")
        for policy, beta in (("full", None), ("h2o", 48))
    }
    run = open_run(str(make_run(tmp_path / "run", rows)))
    assert [(c.name, c.number) for c in questions(run).panels[0].curves] == [
        ("full, f16", 0),
        ("h2o, f16", 1),
        ("full, q8_0", 2),
        ("h2o, q8_0", 3),
    ]


def test_labels_of_close_budgets_do_not_touch() -> None:
    assert apart([48, 96, 192]) == [48, 96, 192]
    assert apart([100, 101, 102, 400, 401]) == [102, 401]


def test_one_budget_makes_no_line(run: Run) -> None:
    with pytest.raises(UsageError, match="no method was run with two budgets: .*--beta 48,96"):
        budget(run)


def snapkv(alpha1: int, policy: str = "full") -> tuple[str, ...]:
    return f"alpha1={alpha1}", "prefill.window=8"


def compressed(name: str, alpha1: int, policy: str = "scope-slide") -> object:
    return row(name, 48, policy=policy, prefill="snapkv", options=snapkv(alpha1))


def test_scores_by_the_prompts_cells(tmp_path: Path) -> None:
    rows = {
        row("full"): FULL,
        row("scope-slide", 48): [[1, 1, 1, 0]] * 4,
        compressed("b", 32): [[1, 1, 0, 0]] * 4,
        compressed("a", 8): [[1, 0, 0, 0]] * 4,
    }
    shown = prefill(open_run(str(make_run(tmp_path / "run", rows))))  # type: ignore[arg-type]
    records = shown.table().records()
    assert [(r["row"], r["cells"], r["score"]) for r in records] == [
        ("full", None, 1.0),
        ("snapkv, decode scope-slide", 16, 0.25),
        ("snapkv, decode scope-slide", 40, 0.5),
        ("snapkv, decode scope-slide", N_PROMPT, 0.75),  # the prompt kept whole
    ]
    assert f"prompts of {N_PROMPT} tokens" in shown.run


@pytest.mark.parametrize("policy", ["scope-slide", "scope-discontinuous"])
def test_the_legend_fits(tmp_path: Path, policy: str) -> None:
    pytest.importorskip("matplotlib")
    rows = {row("full"): FULL, row(policy, 48): FULL}
    for name in ("snapkv", "pyramidkv", "h2o", "streaming-llm", "pyramidinfer"):
        for size in (8, 16):
            options = (f"alpha1={size}", *(("alpha2=8",) if name == "streaming-llm" else ()))
            kept = row(f"{name} {size}", 48, policy=policy, prefill=name, options=options)
            rows[kept] = [[1, 0, 0, 0]] * 4
    shown = prefill(open_run(str(make_run(tmp_path / "run", rows))))  # type: ignore[arg-type]
    with style.canvas(shown.size) as canvas:
        shown.draw(canvas)
        canvas.draw_without_rendering()
        (legend,) = canvas.legends
        box = legend.get_window_extent()
        assert canvas.bbox.x0 <= box.x0 and box.x1 <= canvas.bbox.x1
        assert len(legend.get_texts()) == 6


def test_what_a_prompt_keeps() -> None:
    def record(**values: object) -> dict[str, object]:
        asked = {"row": "a", "policy": "full", "prefill": "snapkv", "options": [], "beta": None}
        return {**asked, **values}

    assert prompt_rows(record(options=["alpha1=24", "window=8"]), 100) == 32
    assert prompt_rows(record(options=["alpha1=24", "window=8"]), 20) == 20  # shorter than that
    assert prompt_rows(record(prefill="full"), 100) == 100
    # the mean: the first layers of PyramidKV keep more, and all cells that lie there
    pyramid = record(prefill="pyramidkv", options=["alpha1=24", "window=8"])
    assert prompt_rows(pyramid, 100) == 32 and prompt_rows(pyramid, 20) == 20
    # derived: three quarters of the budget
    assert prompt_rows(record(beta=20), 100) == 90
    assert prompt_rows(record(asked_budget="80"), 100) == 60
    with pytest.raises(UsageError, match="row 'a' does not say how much"):
        prompt_rows(record(asked_budget="50%"), 100)


def test_one_prefill_budget_makes_no_line(tmp_path: Path, run: Run) -> None:
    with pytest.raises(UsageError, match="no prefill method was run with two sizes"):
        prefill(run)
    rows = {compressed("a", 8): FULL, compressed("b", 8): FULL}
    twice = open_run(str(make_run(tmp_path / "twice", rows)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'a' and 'b' both keep 16 rows"):
        prefill(twice)
