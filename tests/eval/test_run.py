"""Runs of a small task on a random model: what is decoded, counted, resumed and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine import capability
from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.asked import Asked
from scope_cpp.eval.config import model_identity
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.grid import DEFAULT_ROWS, Grid
from scope_cpp.eval.metrics import quarter
from scope_cpp.eval.progress import Status
from scope_cpp.eval.record import Prediction
from scope_cpp.eval.report import COSTS, LEGEND, flat_records, render, tables
from scope_cpp.eval.rows import Row
from scope_cpp.eval.run import Evaluation
from scope_cpp.eval.sample import Aborted, Reading, Stop, Watch, read_item, write_output
from scope_cpp.eval.task import Item, Source
from scope_cpp.reference.shipped import model_path
from tests.eval.counting import N_PREDICT, PROMPTS, Counting, evaluation, run

GREEDY = SamplingParams(temp=0)
TEXT = "Once upon a time there was a king who had three daughters and the"


def row_of(policy: str, beta: int | None = 16, **fields: Any) -> Row:
    return Row(policy, Settings(policy=policy, n_threads=1, **fields), beta)


def written(model: Model, item: Item, row: Row, warn: Callable[[str], None] = print) -> Any:
    reading = read_item(model, item, template=False)
    return write_output(model, reading, item.n_predict, row, GREEDY, Watch(Stop()), warn)


def outputs(folder: Path) -> dict[tuple[str, str], str]:
    found = RunFolder.open(folder).predictions()
    return {p.key: p.output.text for p in found if p.output is not None}


# rows


def test_default_rows_have_the_same_cells_and_the_full_cache(
    model: Model, tmp_path: Path, counting: Counting
) -> None:
    result = run(model, tmp_path / "run", names=DEFAULT_ROWS)
    assert [record["row"] for record in result.records] == list(DEFAULT_ROWS)
    prompts = [len(model.tokenize(p, add_special=True, parse_special=False)) for p in PROMPTS]
    for record in result.records:
        assert record["n"] == len(PROMPTS)
        extra = N_PREDICT if record["row"] == "full" else 16
        assert record["cells_peak"] <= record["cells_budget"] == max(prompts) + extra
        # nearly all of the budget is used: rows are compared at equal cells
        assert record["cells_peak"] >= record["cells_budget"] - 2
    assert result.records[0]["evicted"] == 0 < min(r["evicted"] for r in result.records[1:])


def test_rows_are_every_pair_of_types_and_betas() -> None:
    grid = Grid(
        names=("scope-slide", "h2o"),
        named=("cells: --policy scope-slide --granularity cell -o interval=4 --beta 50",),
        betas=(8, 20),
        types=(("f16", "f16"), ("q8_0", "q8_0")),
    )
    with pytest.raises(UsageError, match="two rows are called 'cells, f16'"):
        grid.rows(1)
    rows = {row.name: row for row in replace(grid, betas=(8,)).rows(1)}
    assert list(rows)[:4] == ["full, f16", "scope-slide, f16", "h2o, f16", "cells, f16"]
    assert rows["cells, q8_0"].settings.type_k == "q8_0"
    assert rows["cells, q8_0"].beta == 50
    assert rows["cells, q8_0"].settings.granularity == "cell"
    assert rows["h2o, f16"].settings_for(100, 500).options == ("recent=4",)
    assert rows["h2o, f16"].settings_for(100, 500).budget == 108
    assert rows["full, f16"].settings_for(100, 500).budget is None
    plain = [row.name for row in replace(grid, named=(), types=(("f16", "f16"),)).rows(1)]
    assert plain == [
        "full", "scope-slide, beta 8", "h2o, beta 8", "scope-slide, beta 20", "h2o, beta 20",
    ]  # fmt: skip


def test_parts_of_beta_follow_a_budget_too() -> None:
    rows = {row.label: row for row in Grid(names=("h2o",), budgets=("150",)).rows(1)}
    assert rows["h2o"].settings_for(100, 500).options == ("recent=25",)
    rows = {row.label: row for row in Grid(names=("h2o",), budgets=("50%",)).rows(1)}
    assert rows["h2o"].settings_for(100, 500).options == ("recent=100",)
    rows = {row.label: row for row in Grid(names=("h2o",), budgets=("64MiB",)).rows(1)}
    with pytest.raises(UsageError, match="recent=beta/2 is a part of cells"):
        rows["h2o"].settings_for(100, 500)


def test_an_option_of_all_rows_leaves_the_full_cache_alone() -> None:
    rows = Grid(names=("full", "scope-slide:interval=2"), options=("beta2=3",)).rows(9)
    assert rows[0].settings.options == ()
    assert rows[1].settings.options == ("interval=2", "beta2=3")
    assert rows[1].to_json()["options"] == ["interval=2", "beta2=3"]


@pytest.mark.parametrize(
    ("fields", "phrase"),
    [
        ({"names": ("nonsense",)}, "row 'nonsense': unknown policy"),
        ({"names": ("h2o:nonsense=1",)}, "has no option 'nonsense'"),
        ({"names": ("h2o:recent=beta/0",)}, "recent=beta/0"),
        ({"names": ("h2o:nonsense=beta/2",)}, "nonsense"),
        ({"names": ("h2o", "h2o")}, "two rows are called 'h2o'"),
        ({"names": ("H2O",)}, "unknown row 'H2O' (did you mean h2o?); valid are methods, "),
        ({"names": ("snapkv",)}, "(snapkv is one of --prefill: give --prefill snapkv)"),
        ({"named": ("--policy h2o",)}, "NAME: --policy"),
        ({"named": ("a: --nonsense 1",)}, "no such flag: --nonsense"),
        ({"named": ("a: --policy",)}, "--policy needs a value"),
        ({"named": ("a: --policy h2o --beta x",)}, "--beta x"),
        ({"named": ("a: --policy 'h2o",)}, "No closing quotation"),
        ({"named": ("a: -fa nonsense",)}, "--flash-attn nonsense: unknown"),
        ({"betas": (0,)}, "--beta 0"),
        ({"betas": (8,), "budgets": ("100",)}, "leave one out"),
        ({"types": (("nonsense", "f16"),)}, "nonsense"),
    ],
)
def test_wrong_rows_are_refused_by_name(fields: dict[str, Any], phrase: str) -> None:
    with pytest.raises(UsageError) as err:
        Grid(**fields).rows(16)
    assert phrase in str(err.value)


# forced tokens


def test_forced_tokens_have_the_likelihood_of_one_batch(model: Model) -> None:
    item = Item("0", TEXT, 0, None, forced=" old king said to them that")
    output, counts, loop = written(model, item, row_of("full", None))
    both = model.tokenize(TEXT + item.forced, add_special=True, parse_special=False)
    n_prompt = int(counts["n_prompt"])
    with Context(model, ContextParams(n_cells=256, n_threads=1, n_outputs=256)) as context:
        context.decode(both, 0, all_logits=True)
        logits = np.array([context.logits(i) for i in range(n_prompt - 1, len(both) - 1)])
    expected = np.logaddexp.reduce(logits, axis=1) - logits[range(len(logits)), both[n_prompt:]]
    # a batch and single tokens take different kernels: a few roundings of f16 in K and V apart
    assert output.nll == pytest.approx(expected, abs=2e-2)
    assert (output.text, output.n_tokens, output.finish, loop) == ("", 0, "forced", None)
    assert counts["n_generated"] == counts["n_forced"] == len(output.nll)


@pytest.mark.parametrize("policy", ["scope-slide", "h2o"])
def test_forced_tokens_leave_the_cache_as_generated_ones(model: Model, policy: str) -> None:
    row = row_of(policy, 12)
    prompt = tuple(model.tokenize(TEXT, add_special=True, parse_special=False))
    settings = row.settings_for(len(prompt), 40)
    with Generation(
        model, prompt, n_predict=40, settings=settings, sampling=GREEDY, warn=print
    ) as generation:
        responses = list(generation)
    assert responses[-1].stats.evicted > 0
    tokens = [response.token for response in responses]
    text = "".join(response.text for response in responses[25:])
    item = Item("0", "", 15, None, prompt_tokens=prompt, forced_tokens=tuple(tokens[:25]))
    output, counts, _ = written(model, item, row)
    assert output.text == text
    assert counts["evicted"] == responses[-1].stats.evicted
    assert counts["n_generated"] == 40


def test_a_prompt_in_tokens_is_read_as_it_is(model: Model) -> None:
    item = Item("0", "ignored", 4, None, prompt_tokens=(5, 6, 7), forced_tokens=(8,))
    reading = read_item(model, item, template=True)
    assert (reading.prompt, reading.forced) == ((5, 6, 7), (8,))


def test_a_template_of_another_model(model: Model) -> None:
    item = Item("0", "a=1", 4, None)
    reading = read_item(model, item, "chatml")
    text = "<|im_start|>user\na=1<|im_end|>\n<|im_start|>assistant\n"
    assert reading.prompt == tuple(model.tokenize(text, parse_special=True))
    with pytest.raises(UsageError, match="has no chat template"):
        read_item(model, item, True)
    with pytest.raises(UsageError, match="no chat template 'chatlm'"):
        read_item(model, item, "chatlm")


# runs


def test_several_at_once_write_what_one_at_a_time_does(
    model: Model, tmp_path: Path, finished: Path
) -> None:
    one = run(model, finished)
    three = run(model, tmp_path / "three", jobs=3)
    assert outputs(finished) == outputs(tmp_path / "three")
    volatile = ("tokens_per_second",)
    for a, b in zip(one.records, three.records, strict=True):
        assert {k: v for k, v in a.items() if k not in volatile} == {
            k: v for k, v in b.items() if k not in volatile
        }


def test_a_finished_run_is_not_run_again(
    model: Model, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / "predictions.jsonl").read_bytes()
    metrics = RunFolder.open(finished).metrics()
    monkeypatch.setattr("scope_cpp.eval.run.write_output", None)
    again = run(model, finished)
    assert (finished / "predictions.jsonl").read_bytes() == before
    assert RunFolder.open(finished).metrics() == metrics
    assert again.records == metrics["rows"]
    assert not again.interrupted


def test_stopping_keeps_what_is_finished(model: Model, tmp_path: Path, finished: Path) -> None:
    stop = Stop()

    def after_two(status: Status) -> None:
        assert status.n_all == 3 * len(PROMPTS)
        stop.asked = int(status.n_done >= 2)

    part = evaluation(model, tmp_path / "part").run(stop, after_two)
    assert (part.n_finished, part.interrupted) == (2, True)
    assert RunFolder.open(tmp_path / "part").metrics()["complete"] is False
    rest = run(model, tmp_path / "part")
    assert not rest.interrupted
    assert outputs(tmp_path / "part") == outputs(finished)


def test_stopping_at_once_gives_a_sample_up(model: Model) -> None:
    stop = Stop()
    stop.asked = 2
    reading = read_item(model, Item("0", TEXT, 5, None), template=False)
    with pytest.raises(Aborted):
        write_output(model, reading, 5, row_of("h2o"), GREEDY, Watch(stop), print)


def test_a_sample_that_fails_is_told_and_the_rest_goes_on(
    model: Model, tmp_path: Path, counting: Counting
) -> None:
    lengths = [len(model.tokenize(p, add_special=True, parse_special=False)) for p in PROMPTS]
    budget = sorted(lengths)[-1]
    grid = Grid(names=("streaming-llm",), budgets=(str(budget),), base=Settings(n_threads=1))
    result = Evaluation(Asked("counting"), grid, model, out=tmp_path / "run").run(Stop())
    assert len(result.failed) == lengths.count(budget)
    assert "the prompt keeps" in str(result.failed[0].error)
    record = result.records[1]
    assert (record["n"], record["errors"]) == (len(PROMPTS) - len(result.failed), 1)
    assert record["vs_full"]["n"] == record["n"]
    assert not result.interrupted
    # a failure is tried again, and counted once
    again = Evaluation(Asked("counting"), grid, model, out=tmp_path / "run").run(Stop())
    assert [p.key for p in again.failed] == [p.key for p in result.failed]
    assert again.n_finished == result.n_finished


def test_a_prompt_beyond_the_trained_positions_is_told_once(
    model: Model, tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "n_ctx_train", 10)
    lines: list[str] = []
    run(model, tmp_path / "run", warn=lines.append, names=("full", "h2o"))
    trained = [line for line in lines if "10 positions" in line]
    assert 1 <= len(trained) <= 2
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("n_ctx_train", [5, 10])
def test_what_is_read_beyond_the_trained_positions_is_told_before_the_sample_runs(
    model: Model, monkeypatch: pytest.MonkeyPatch, n_ctx_train: int
) -> None:
    monkeypatch.setattr(model, "n_ctx_train", n_ctx_train)
    reading = Reading(prompt=tuple(range(20, 28)), forced=tuple(range(30, 38)), stop=())
    lines: list[str] = []
    stop = Stop()
    stop.asked = 2  # at the first token
    with pytest.raises(Aborted):
        write_output(model, reading, 50, row_of("h2o"), GREEDY, Watch(stop), lines.append)
    [line] = [line for line in lines if f"{n_ctx_train} positions" in line]
    assert line.startswith("a prompt is" if n_ctx_train < 8 else "prompt and output are")


def test_more_cells_than_the_budget_fail_the_sample(
    model: Model, tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scope_cpp.eval.sample.kv_evict.n_used", lambda ctx: 10_000)
    result = run(model, tmp_path / "run", asked={"limit": 1})
    assert result.n_finished == 0
    assert "llama.cpp counts 10000 cells in use, the budget is" in str(result.failed[0].error)


# metrics


def test_reports_say_what_the_shipped_model_is(model: Model) -> None:
    assert model_identity(model_path())["name"] == "reference model"
    assert model_identity(model.path)["name"] == model.path.name


def test_metrics_are_those_of_the_scores(model: Model, finished: Path) -> None:
    result = run(model, finished)
    table: dict[str, list[Prediction]] = {}
    for prediction in RunFolder.open(finished).predictions():
        table.setdefault(prediction.row, []).append(prediction)

    def mean(row: str, group: str | None = None, scorer: str = "strict") -> float:
        chosen = [p for p in table[row] if group in (None, p.group)]
        return float(np.mean([p.scores[scorer].correct for p in chosen]))

    for record in result.records:
        row = record["row"]
        assert record["score"]["value"] == pytest.approx(mean(row))
        low, high = record["score"]["ci"]
        assert low <= record["score"]["value"] <= high
        for group, found in record["groups"].items():
            assert found["value"] == pytest.approx(mean(row, group))
        for number, value in enumerate(record["quarters"]):
            column = [p.scores["strict"].correct[number] for p in table[row]]
            assert value == pytest.approx(np.mean(column))
        right = np.array([p.scores["strict"].correct for p in table[row]])
        assert record["kinds"] == pytest.approx(
            {"first": right[:, :2].mean(), "other": right[:, 2:].mean()}
        )
        assert record["scorers"]["lenient"]["value"] == pytest.approx(mean(row, None, "lenient"))
        if row != "full":
            assert record["vs_full"]["value"] == pytest.approx(mean(row) - mean("full"))
        assert record["tokens"] == np.mean([p.stats["n_generated"] for p in table[row]])
    assert result.records[0]["vs_full"] is None is result.records[1]["vs_scope"]
    assert result.records[2]["vs_scope"]["n"] == len(PROMPTS)
    assert RunFolder.open(finished).metrics()["rows"] == result.records


def test_quarters_are_equal_parts() -> None:
    assert [quarter(i, 8) for i in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [[quarter(i, 43) for i in range(43)].count(q) for q in range(4)] == [11, 11, 11, 10]


def test_another_scorer_needs_no_new_run(
    model: Model, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = run(model, finished)
    monkeypatch.setattr("scope_cpp.eval.run.write_output", None)
    lenient = run(model, finished, scorer="lenient")
    for a, b in zip(strict.records, lenient.records, strict=True):
        assert a["scorers"]["lenient"]["value"] == b["score"]["value"]
        assert a["scorers"]["lenient"]["less"]["value"] == -b["scorers"]["strict"]["less"]["value"]
    with pytest.raises(UsageError, match="no scorer 'nonsense'; valid are strict, lenient"):
        run(model, finished, scorer="nonsense")


def test_reports_have_the_numbers_of_the_metrics(model: Model, finished: Path) -> None:
    result = run(model, finished)
    text = render(result, "md")
    for record in result.records:
        assert f"{record['score']['value']:.3f} [" in text
    assert LEGEND in text
    titles = [[column.title for column in columns] for columns, _ in tables(result)]
    assert titles[0] == ["row", "samples", "score", "vs full", "vs SCOPE", "by lenient"]
    assert {"even", "odd", "1st quarter", "loops"} <= set(titles[1])
    assert titles[2] == [column.title for column in COSTS]
    lines = render(result, "csv").splitlines()
    assert len(lines) == 1 + len(result.records)
    assert lines[0].split(",") == list(flat_records(result.records)[0])
    whole = json.loads(render(result, "json"))
    assert whole["rows"] == result.records
    assert whole["config"]["items"]["n"] == len(PROMPTS)


def test_many_groups_have_a_table_of_their_own(
    model: Model, tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [replace(i, group=f"{i.id}: 10% {{x.y}}") for i in counting.items(Source())]
    items += [replace(i, id=i.id + "b", group=f"{i.id}b") for i in items]
    monkeypatch.setattr(Counting, "items", lambda self, source: items)
    result = run(model, tmp_path / "run", names=("full", "h2o"))
    groups = {item.group for item in items}
    columns, records = tables(result)[2]
    assert [column.title for column in columns] == ["group", "full", "h2o"]
    assert {record["group"] for record in records} == groups
    for record in records:
        assert record["row 1"] == result.records[1]["groups"][record["group"]]["value"]
    assert all(f"| {group} |" in render(result, "md") for group in groups)


def test_without_a_budget_it_is_a_share_of_the_longest_output(
    model: Model, tmp_path: Path, counting: Counting
) -> None:
    lines: list[str] = []
    found = evaluation(model, tmp_path / "run", betas=(), note=lines.append)
    assert {row.beta for row in found.rows if not row.is_full} == {N_PREDICT // 9}
    assert lines[0].startswith(f"{N_PREDICT // 9} cells beside the prompt")


def test_a_model_that_cannot_be_bounded_is_refused_first(
    model: Model, tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = capability.Verdict(False, "it has no KV cache")
    monkeypatch.setattr(capability, "probe", lambda *args: verdict)
    with pytest.raises(ScopeError, match="it has no KV cache"):
        run(model, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run(model, tmp_path / "run", names=("full",)).n_finished == len(PROMPTS)


def test_each_token_is_told_while_a_sample_is_written(
    model: Model, tmp_path: Path, counting: Counting
) -> None:
    told: list[Status] = []

    result = evaluation(model, tmp_path / "run", names=("full", "h2o")).run(Stop(), told.append)

    tokens = [s.running[0].n_tokens for s in told if s.n_done == 0 and s.running]
    first = RunFolder.open(result.folder).predictions()[0]
    assert first.output is not None
    assert tokens == list(range(first.output.n_tokens + 1))
    assert told[-1] == Status(result.n_all, result.n_all, ())
    assert all(a.done <= b.done for a, b in pairwise(told) if a.n_done == b.n_done)
