"""Fidelity: the divergences against NumPy's, the kept texts, and runs on a random model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.asked import Asked
from scope_cpp.eval.fidelity import measure, report, summary
from scope_cpp.eval.fidelity.divergence import (
    Distribution,
    Divergence,
    first_counted,
    head_of,
    kl,
    parts,
    worst,
)
from scope_cpp.eval.fidelity.reference import (
    Comparison,
    Recorder,
    Reference,
    about,
    check,
    file_name,
    load,
    save,
)
from scope_cpp.eval.folder import RunFolder
from scope_cpp.eval.grid import Grid
from scope_cpp.eval.progress import Status
from scope_cpp.eval.record import Prediction
from scope_cpp.eval.report import render
from scope_cpp.eval.result import Result, read_result
from scope_cpp.eval.run import Evaluation
from scope_cpp.eval.sample import Aborted, Stop, Watch, read_item
from scope_cpp.eval.task import Item, Output, Score, Source
from scope_cpp.eval.tasks.fidelity import Fidelity

# arrays

of = Distribution.of


def logits(seed: int, n: int = 5000) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 4, n).astype(np.float32)


def exact_kl(p_logits: Any, q_logits: Any) -> float:
    p, q = (np.exp(x.astype(np.longdouble)) for x in (p_logits, q_logits))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


@pytest.mark.parametrize("mass", [0.9, 0.99, 0.999])
def test_the_head_s_divergence_is_below_the_exact_one_by_what_is_in_the_tail(mass: float) -> None:
    for seed in range(5):
        p, q = logits(seed), logits(seed) + logits(seed + 100) / 8
        full = head_of(of(p), mass)
        found, exact = kl(full, of(q)), exact_kl(p, q)
        tail = np.setdiff1d(np.arange(p.size), full.ids)
        within = full.rest * exact_kl(p[tail], q[tail])
        assert full.rest <= 1 - mass
        assert 0 < found <= exact
        assert found + within == pytest.approx(exact, abs=1e-6)


def test_the_head_is_the_most_likely_tokens_in_order() -> None:
    logprobs = of(np.log(np.array([0.1, 0.3, 0.05, 0.3, 0.25], np.float32)))
    found = head_of(logprobs, mass=0.59)
    assert found.ids.tolist() == [1, 3], "of equally likely tokens the first is first"
    assert found.rest == pytest.approx(0.4)
    assert head_of(logprobs, mass=0.61).ids.tolist() == [1, 3, 4]
    assert head_of(logprobs, mass=0.99, most=4).ids.tolist() == [1, 3, 4, 0]
    assert head_of(logprobs, mass=0.0).ids.tolist() == [1]


def test_a_distribution_is_at_no_distance_from_itself() -> None:
    for seed in range(20):
        same = of(logits(seed))
        assert kl(head_of(same), same) == 0.0


def test_a_token_that_a_row_rules_out_costs_no_infinity() -> None:
    p, q = logits(0, 4), np.array([0, -400, 0, 0], np.float32)
    assert np.isfinite(kl(head_of(of(p), 0.5), of(q)))
    q = np.array([800, 0, 0, 0], np.float32)  # all others have no probability that a float64 holds
    assert np.isfinite(kl(head_of(of(np.zeros(4, np.float32)), 0.2), of(q)))


@pytest.mark.parametrize(
    ("n", "room", "evicted", "first"),
    [(100, 20, True, 21), (100, 98, True, 99), (100, 99, True, 0), (100, 99, False, None),
     (100, 400, False, None), (100, 0, True, 1)],
)  # fmt: skip
def test_tokens_count_once_a_row_is_out_of_cells(
    n: int, room: int, evicted: bool, first: int | None
) -> None:
    assert first_counted(n, room, evicted) == first


def test_sums_over_a_text() -> None:
    values = np.random.default_rng(0).random(250).tolist()
    assert worst(values) == pytest.approx(np.mean(np.sort(values)[-2:]))
    assert worst(values[:5]) == max(values[:5])
    ends = [0, 62, 125, 187, 250]
    found = [np.mean(values[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
    assert parts(values) == pytest.approx(found)
    assert parts(values[:3]) == ()


def test_scores_are_sums_over_what_counts() -> None:
    values = tuple(np.random.default_rng(1).random(40).tolist())
    same = tuple(int(i % 4 > 0) for i in range(40))
    found = Divergence(values, same, tuple(-v for v in values), counted=7)
    output = Output("", 0, "forced", divergence=found)

    def score(name: str) -> Score:
        return Fidelity().score(Item("a", "", 40, None), output, name)

    assert score("kl").value == pytest.approx(np.mean(values[7:]))
    assert score("kl").correct == pytest.approx(np.mean(np.reshape(values, (4, 10)), axis=1))
    assert score("late").value == pytest.approx(np.mean(values[30:]))
    assert score("worst").value == max(values[7:])
    assert score("disagree").value == pytest.approx(1 - np.mean(same[7:]))
    assert score("nll").value == pytest.approx(-np.mean(values[7:]))
    assert score("kl").problems == ()
    with pytest.raises(ScopeError, match="an output alone has no score here"):
        Fidelity().score(Item("a", "", 40, None), Output("", 0, "stop"), "kl")


# kept texts

ABOUT = about("a.gguf", "0123", [1, 2, 3], 7, temp=0.7, tokens=20, flash_attn="off")


def recorded(seeds: range = range(6)) -> Reference:
    recorder = Recorder()
    for seed in seeds:
        recorder.see(logits(seed), seed)
    return recorder.reference(ABOUT, "a text")


def test_a_text_is_read_as_it_was_written(tmp_path: Path) -> None:
    kept = recorded()
    save(tmp_path / "reference" / "a.npz", kept)
    found = load(tmp_path / "reference" / "a.npz", ABOUT)
    assert found is not None and (found.about, found.text, len(found)) == (ABOUT, "a text", 6)
    comparison = Comparison(found)
    for seed in range(6):
        comparison.see(logits(seed), seed)
    assert comparison.divergence(2) == Divergence((0.0,) * 6, (1,) * 6, (0.0,) * 6, 2)
    assert load(tmp_path / "b.npz", ABOUT) is None
    check(tmp_path / "b.npz", ABOUT)


def test_a_row_is_compared_token_by_token() -> None:
    comparison = Comparison(recorded())
    others = [logits(seed) + logits(seed + 50) / 8 for seed in range(6)]
    for seed, other in enumerate(others):
        comparison.see(other, seed)
    found = comparison.divergence(None)
    for seed, other in enumerate(others):
        own = logits(seed)
        assert found.kl[seed] == pytest.approx(exact_kl(own, other), abs=5e-4)
        assert found.same[seed] == (own.argmax() == other.argmax())
        less = of(own).logprob(seed) - of(other).logprob(seed)
        assert found.extra[seed] == pytest.approx(less, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"sha256_of_ends": "4567", "model": "b.gguf"}, "belongs to another model (a.gguf)"),
        ({"prompt": "89ab"}, "belongs to another prompt: remove it"),
        ({"seed": 8}, "belongs to another run (seed 7 instead of 8)"),
        ({"tokens": 9, "temp": 0.0}, "(temp 0.7 instead of 0.0, tokens 20 instead of 9)"),
    ],
)
def test_a_text_of_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], phrase: str
) -> None:
    path = tmp_path / "a.npz"
    save(path, recorded())
    for refuse in (load, check):
        with pytest.raises(ScopeError) as error:
            refuse(path, {**ABOUT, **changes})
        assert str(error.value).startswith(f"{path} belongs to") and phrase in str(error.value)


def test_a_damaged_text_is_refused(tmp_path: Path) -> None:
    path, kept = tmp_path / "a.npz", recorded()
    save(path, kept)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="do not belong together"):
        Reference(ABOUT, "", *(getattr(kept, n)[:-1] for n in ("tokens", "logprobs")),
                  kept.starts, kept.ids, kept.likely, kept.rest)  # fmt: skip
    for content in (whole[: len(whole) // 2], b"", b"nonsense"):
        path.write_bytes(content)
        with pytest.raises(ScopeError, match="a.npz is damaged .*remove it"):
            load(path, ABOUT)
    with path.open("wb") as file:
        np.savez(file, about=np.array(json.dumps({"about": ABOUT, "text": ""})))
    with pytest.raises(ScopeError, match="a.npz is damaged .*tokens"):
        load(path, ABOUT)


def test_files_are_named_after_the_prompts() -> None:
    assert file_name("story") == "story.npz"
    names = [file_name(name) for name in ("a/b", "a b", "../a", "ä", "x" * 300, "story, seed 1")]
    assert len(set(names)) == len(names)
    assert all("/" not in name and not name.startswith(".") for name in names)
    assert max(map(len, names)) < 100


# runs on a random model

PROMPTS = [
    {"id": "one", "kind": "short", "prompt": "Once upon a time"},
    {"id": "two", "kind": "long", "prompt": "Facts: ab=1 cd=2 and the quick brown fox"},
]
N, BETA = 60, 15


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in PROMPTS))
    return path


def evaluation(model: Model, data: Path, **changes: Any) -> Evaluation:
    options = (f"tokens={N}", *changes.pop("options", ()))
    asked = Asked("fidelity", options, data, seeds=(5,), **changes.pop("asked", {}))
    grid = Grid(
        changes.pop("names", ("full", "h2o", "streaming-llm")),
        betas=changes.pop("betas", ("1/4", 400)),
        base=Settings(n_threads=1),
    )
    return Evaluation(asked, grid, model, **changes)


@pytest.fixture(scope="session")
def _finished(model: Model, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return (
        evaluation(model, prompts, out=tmp_path_factory.mktemp("fidelity") / "run")
        .run(Stop())
        .folder
    )


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Result:
    """A run that is done, to be changed."""
    return read_result(shutil.copytree(_finished, tmp_path / "run"))


def predictions(folder: Path) -> dict[tuple[str, str], Prediction]:
    return {p.key: p for p in RunFolder.open(folder).predictions()}


def kept(folder: Path, name: str) -> Reference:
    path = folder / measure.FOLDER / f"{name}.npz"
    with np.load(path) as file:
        found = load(path, json.loads(str(file["about"]))["about"])
    assert found is not None
    return found


def fed(model: Model, prompt: Any, tokens: list[int], settings: Settings) -> list[Any]:
    """The logits before each of these tokens, without anything of the task."""
    found = []
    with Generation(
        model, prompt, n_predict=len(tokens), settings=settings,
        sampling=SamplingParams(temp=0), warn=lambda line: None,
    ) as generation:  # fmt: skip
        generation.cache.prefill(generation.tokens)
        for token in tokens:
            found.append(generation.context.logits())
            generation.cache.decode(token)
    return found


def test_rows_are_as_far_from_the_full_cache_as_their_logits_say(
    model: Model, finished: Result
) -> None:
    done = predictions(finished.folder)
    for line in PROMPTS:
        name, prompt = line["id"], line["prompt"]
        tokens = kept(finished.folder, name).tokens.tolist()
        n_prompt = len(model.tokenize(prompt, add_special=True, parse_special=False))
        one_path = {"n_threads": 1, "flash_attn": "off"}
        full = fed(model, prompt, tokens, Settings(policy="full", **one_path))
        beta = len(tokens) // 4
        options = (f"recent={beta // 2}",)
        settings = Settings(policy="h2o", budget=n_prompt + beta, options=options, **one_path)
        row = fed(model, prompt, tokens, settings)
        prediction = done["h2o, beta 1/4", name]
        assert prediction.output is not None and prediction.output.divergence is not None
        found = prediction.output.divergence
        exact = [exact_kl(a, b) for a, b in zip(full, row, strict=True)]
        # at most .001 of the divergence within the tail is missing; of these logits it is up to 3
        assert found.kl == pytest.approx(exact, abs=4e-3)
        assert found.same == tuple(
            int(a.argmax() == b.argmax()) for a, b in zip(full, row, strict=True)
        )
        assert found.counted == beta + 1
        assert found.kl[: beta + 1] == (0.0,) * (beta + 1), "nothing was evicted yet"
        value = prediction.scores["kl"].value
        assert value == pytest.approx(np.mean(exact[beta + 1 :]), abs=4e-3)
        assert value > 0.05


def test_a_row_that_fits_is_the_full_cache(finished: Result) -> None:
    done = predictions(finished.folder)
    for name in ("one", "two"):
        prediction = done["h2o, beta 400", name]
        assert prediction.output is not None and prediction.output.divergence is not None
        assert set(prediction.output.divergence.kl) == {0.0}
        assert set(prediction.output.divergence.same) == {1}
        assert set(prediction.output.divergence.extra) == {0.0}
        assert prediction.scores["kl"].problems[0].startswith("nothing evicted: all ")
    assert "| h2o | .0000 | nothing evicted |" in render(finished, "md")


def test_the_floor_is_the_full_cache_on_the_other_attention_path(finished: Result) -> None:
    rows = {row["name"]: row["flash_attn"] for row in finished.config["rows"]}
    assert rows["full"] == "auto", "flash attention, where llama.cpp has it"
    assert {path for name, path in rows.items() if name != "full"} == {"off"}
    for name in ("one", "two"):
        floor = predictions(finished.folder)["full", name].scores["kl"]
        assert 0 < floor.value < 1e-3 and floor.problems == ()


def test_the_text_is_sampled_by_the_seed(model: Model, finished: Result) -> None:
    text = kept(finished.folder, "one")
    sampling = SamplingParams(temp=0.7, seed=5)
    settings = Settings(policy="full", flash_attn="off", n_threads=1)
    with Generation(
        model, "Once upon a time", n_predict=N, settings=settings, sampling=sampling
    ) as generation:
        responses = list(generation)
    assert text.tokens.tolist() == [response.token for response in responses]
    assert text.text == "".join(response.text for response in responses)


def test_a_run_that_was_stopped_goes_on_with_the_texts_that_are_there(
    model: Model, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Result
) -> None:
    stop = Stop()

    def after_three(status: Status) -> None:
        stop.asked = int(status.n_done >= 3)

    part = evaluation(model, prompts, out=tmp_path / "part").run(stop, after_three)
    assert (part.n_finished, part.interrupted) == (3, True)
    assert [p.name for p in (tmp_path / "part" / measure.FOLDER).iterdir()] == ["one.npz"]
    written: list[str] = []

    def counted(path: Path, reference: Reference) -> None:
        written.append(path.name)
        save(path, reference)

    monkeypatch.setattr(measure, "save", counted)
    whole = evaluation(model, prompts, out=tmp_path / "part").run(Stop())
    assert written == ["two.npz"]
    volatile = ("tokens_per_second",)
    for a, b in zip(whole.records, finished.records, strict=True):
        assert all(a[key] == b[key] for key in a if key not in volatile)


def test_a_text_that_is_not_finished_is_not_kept(
    model: Model, prompts: Path, tmp_path: Path
) -> None:
    stop = Stop()
    stop.asked = 2
    full = measure.FullCache(model, tmp_path / "texts", Settings(policy="full", n_threads=1))
    item = Item("a", "Once upon", 20, None)
    [row, *_] = Grid(("full",), base=Settings(n_threads=1)).rows(8)
    reading = read_item(model, item, template=False)
    with pytest.raises(Aborted):
        full.compare(item, reading, row, SamplingParams(seed=1), Watch(stop), print)
    assert not (tmp_path / "texts").exists()


def test_rows_are_added_to_a_finished_run(
    model: Model, prompts: Path, finished: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "Recorder", None)  # no text is written again
    before = (finished.folder / "predictions.jsonl").read_bytes()
    later = evaluation(
        model, prompts, out=finished.folder, names=("tova",), betas=(9,), command=["scope", "more"]
    ).run(Stop())
    assert not later.interrupted
    after = (finished.folder / "predictions.jsonl").read_bytes()
    assert after.startswith(before)
    added = [json.loads(line)["row"] for line in after[len(before) :].splitlines()]
    assert added == ["tova, beta 9"] * 2
    assert [r["row"] for r in later.records] == [
        *(r["row"] for r in finished.records), "tova, beta 9",
    ]  # fmt: skip
    assert later.records[:-1] == finished.records
    assert read_result(finished.folder) == later
    assert later.config["later_commands"] == [["scope", "more"]]


def test_a_row_with_other_options_needs_another_name(
    model: Model, prompts: Path, finished: Result
) -> None:
    grid = Grid(("h2o",), options=("decay=0.9",), betas=("1/4",), base=Settings(n_threads=1))
    asked = Asked("fidelity", (f"tokens={N}",), prompts, seeds=(5,))
    with pytest.raises(UsageError, match="row 'h2o, beta 1/4' with other options"):
        Evaluation(asked, grid, model, out=finished.folder)


def test_all_rows_of_one_text_share_a_folder(
    model: Model, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = evaluation(model, prompts).folder.path
    assert evaluation(model, prompts, names=("tova",), betas=(7,)).folder.path == first
    assert evaluation(model, prompts, options=("raw=1",)).folder.path != first


def test_a_text_of_another_prompt_is_refused_before_anything_runs(
    model: Model, prompts: Path, finished: Result
) -> None:
    texts = finished.folder / measure.FOLDER
    (texts / "two.npz").write_bytes((texts / "one.npz").read_bytes())
    with pytest.raises(ScopeError, match="two.npz belongs to another prompt: remove it, or name"):
        evaluation(model, prompts, out=finished.folder)


def test_quantized_caches_are_compared_with_the_one_in_f16(
    model: Model, prompts: Path, tmp_path: Path
) -> None:
    grid = Grid((), types=(("q8_0", "q8_0"),), base=Settings(n_threads=1))
    asked = Asked("fidelity", (f"tokens={N}",), prompts, limit=1)
    result = Evaluation(asked, grid, model, out=tmp_path / "run").run(Stop())
    [record] = result.records
    assert (record["type_k"], record["flash_attn"]) == ("q8_0", "auto")
    assert 1e-6 < record["score"]["value"] < 1e-2
    assert "floor" not in report.verdict(result)


# prompts


def test_texts_end_at_the_last_trained_position(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "n_ctx_train", 50)
    long = Item("long", "x" * 60, 100, None)
    short = Item("short", "ab", 100, None)
    n_prompt = len(model.tokenize("ab", add_special=True, parse_special=False))
    lines: list[str] = []
    [found] = measure.fitting([long, short], model, False, lines.append)
    assert (found.id, found.n_predict) == ("short", 50 - n_prompt)
    assert lines[0].startswith(f"short: the text ends after {50 - n_prompt} tokens")
    assert lines[1].startswith("long: the prompt has ") and lines[1].endswith("; skipped")
    with pytest.raises(ScopeError, match="was trained on 50: give shorter prompts"):
        measure.fitting([long], model, False, print)


def test_prompts_come_along(model: Model) -> None:
    items = Fidelity().items(Source())
    assert {"story", "code", "table", "dossier", "problems"} <= {item.group for item in items}
    assert {item.n_predict for item in items} == {1000}
    lengths = [len(item.prompt) for item in items]
    assert min(lengths) < 400 and max(lengths) > 2000


def test_raw_prompts_are_read_without_a_template(prompts: Path) -> None:
    def tokenize(text: str) -> list[int]:
        return list(text.encode())

    source = Source(prompts, options=("raw=1",), tokenize=tokenize)
    items = Fidelity().items(source)
    assert items[0].prompt_tokens == tuple(b"Once upon a time")
    assert [item.group for item in items] == ["short", "long"]


def test_a_model_without_a_template_is_told(model: Model, prompts: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    found = evaluation(model, prompts, out=tmp_path / "run", note=lines.append)
    assert found.asked.template is False
    assert "has no chat template: it continues the prompts as plain text" in lines[0]
    chat = evaluation(model, prompts, out=tmp_path / "chat", asked={"template": "chatml"})
    assert chat.asked.template == "chatml"


# reports


def made(values: dict[str, tuple[float, ...]], floor: float = 0.0, model: str = "a") -> Result:
    """A result in which rows have these divergences, prompt by prompt."""
    from scope_cpp.eval.metrics import summarize
    from scope_cpp.eval.rows import Row

    rows = [Row("full", Settings(policy="full"), None, (), "full")]
    rows += [Row(name, Settings(policy=name), 128, (), name) for name in values]
    known = {"full": (floor,) * len(next(iter(values.values()))), **values}
    done = []
    task = Fidelity()
    for row in rows:
        for i, value in enumerate(known[row.name]):
            item = Item(f"prompt {i}", "", 8, None)
            output = Output(
                "", 0, "forced", divergence=Divergence((value,) * 8, (1,) * 8, (0.0,) * 8, 0)
            )
            scores = {name: task.score(item, output, name) for name in task.scorers}
            done.append(Prediction(row.name, item.id, "", "0", output, scores, STATS))
    records = summarize(task, [], rows, done, "kl", seed=0)
    config = {"seed": 0, "task": "fidelity", "compares": True, "model": {"name": f"{model}.gguf"}}
    return Result(Path("run"), config, "kl", records, len(done), len(done), [], False)


STATS = dict.fromkeys(
    ("n_prompt", "n_generated", "cells_capacity", "cells_seen", "cells_used", "cells_allocated",
     "kv_bytes", "evicted", "selections", "attention_loss", "generation_seconds"), 1,
)  # fmt: skip


def test_a_report_compares_with_the_best_row_prompt_by_prompt() -> None:
    result = made({"scope-slide": (0.3, 0.02), "h2o": (0.1, 0.06)}, floor=0.004)
    (columns, lines), (_, by_prompt) = report.tables(result)
    cells = [[column.cell(line) for column in columns] for line in lines]
    assert [line[0] for line in cells] == ["h2o", "scope-slide", "full"]
    assert "full: the floor, the full cache again" in report.notes(result)
    assert [line[1] for line in cells] == [".0800", ".1600", ".0040"]
    assert cells[1][2] == "+.0800 [-.0400, +.2000]"
    assert [line[-1] for line in cells] == ["3.00", "3.00", ""]
    assert [by_prompt[0][f"part {i}"] for i in range(2)] == [".1000", ".0600"]
    told = report.verdict(result)
    assert (
        "β = 128: h2o is nearest to the full cache, KL .0800, 100.0% same; scope-slide has " in told
    )
    assert "has .1600, 2.0 times that." in told
    assert "is .0040 (100.0% same)" in told


def test_with_several_seeds_parts_are_kinds() -> None:
    result = made({"h2o": (0.3, 0.1)})
    kinds = {"story": {"value": 0.3, "ci": None}, "code": {"value": 0.1, "ci": None}}
    records = [{**record, "groups": kinds} for record in result.records]
    result = replace(result, records=records)
    assert report.tables(result)[1][0][1].title == "prompt 0"
    several = replace(result, config={**result.config, "seeds": [1, 2]})
    columns, lines = report.tables(several)[1]
    assert [column.title for column in columns][1:3] == ["story", "code"]
    assert [lines[0][f"part {i}"] for i in range(2)] == [".3000", ".1000"]


def test_divergences_that_nobody_sees_are_no_ratio() -> None:
    (columns, lines), _ = report.tables(made({"scope-slide": (0.009,), "h2o": (0.0001,)}))
    assert [line["ratio"] for line in lines] == ["1.00", "1.00", None]
    assert "less the best [95 %]" in [column.title for column in columns]


def test_a_report_fits_a_terminal(finished: Result) -> None:
    from scope_cpp import table

    for columns, lines in report.tables(finished):
        assert max(map(len, table.plain(columns, lines).splitlines())) <= 100
    assert max(map(len, report.LEGEND.splitlines())) <= 100
    assert "nothing evicted on 2 of 2 prompts" in report.verdict(finished)


def test_every_form_has_the_numbers(finished: Result) -> None:
    whole = json.loads(render(finished, "json"))
    record = next(r for r in whole["rows"] if r["row"] == "h2o, beta 1/4")
    assert record["samples"].keys() == {"one", "two"}
    assert record["score"]["value"] == pytest.approx(np.mean(list(record["samples"].values())))
    assert record["groups"].keys() == {"short", "long"}
    assert f"{record['score']['value']:.4f}".removeprefix("0") in render(finished, "md")
    assert "sample one" in render(finished, "csv").splitlines()[0]


def test_several_runs_tell_which_row_holds() -> None:
    one = made({"scope-slide": (0.3, 0.02), "h2o": (0.1, 0.06)})
    other = made({"scope-slide": (0.2,), "h2o": (0.002,), "tova": (0.2,)}, model="b")
    found = summary.summary([one, other])
    assert [(record["row"], record["cases"]) for record in found] == [
        ("h2o", 3), ("scope-slide", 3), ("tova", 1),
    ]  # fmt: skip
    assert [record["mean"] for record in found] == pytest.approx([0.054, 0.52 / 3, 0.2])
    ratios = [3 ** (1 / 3), (3 * 1 * 20) ** (1 / 3), 20]
    assert [record["ratio"] for record in found] == pytest.approx(ratios)
    assert [record["worst"] for record in found] == pytest.approx([3, 20, 20])
    assert found[0]["where"] == ["a", "prompt 1", "β = 128"]
    assert "| h2o | 3 | .0540 | 1.44 | 3.00 | a, prompt 1, β = 128 |" in summary.render(
        [one, other], as_json=False
    )
    assert json.loads(summary.render([one, other], as_json=True))["rows"] == found


def test_only_fidelity_is_summed_up() -> None:
    result = made({"h2o": (0.1,)})
    config = {"task": "gsm8k", "compares": False}
    with pytest.raises(UsageError, match="is a run of gsm8k: several runs are summed up"):
        summary.summary([result, replace(result, config=config)])
    nothing = [record for record in result.records if record["row"] == "full"]
    with pytest.raises(UsageError, match="no bounded row"):
        summary.summary([replace(result, records=nothing)])
