"""``scope demo``: one JSON object, lines, a screen; bad requests; Ctrl-C. The default model."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scope_cli import demo_view as view
from scope_cli import shipped
from scope_cli.chat.heatmap import SHADES
from scope_cli.program import app
from typer.testing import CliRunner

from scope_cpp.demo.run import Demo
from scope_cpp.demo.sheet import make_sheets
from scope_cpp.engine.model import Model
from scope_cpp.errors import ScopeError
from scope_cpp.reference.task import read_samples, write_samples
from tests.demo.sheets import by_hand, recounted, shortened, worked_out

from .conftest import Run, assert_refused, spawn

N = 12  # questions
TITLES = ["full cache", "SCOPE retrieval", "SCOPE foresight", "SCOPE slide", "SCOPE adaptive"]
TITLES += ["SCOPE discontinuous", "H2O", "StreamingLLM"]

Args = tuple[str, ...]


def shipped_model() -> str | None:
    try:
        return shipped.path() if Path(shipped.path()).is_file() else None
    except (ImportError, ScopeError):
        return None


@pytest.fixture(scope="module")
def draft(shared_dir: Path) -> tuple[Path, Path]:
    """A trained model, and a file of sheets that it knows the keys of."""
    model = shared_dir / "models/reference-draft-f16.gguf"
    data = shared_dir / "data/reference_draft_samples.jsonl"
    if not (model.is_file() and data.is_file()):
        pytest.skip("neither the shipped model nor the draft of it is here")
    return model, data


@pytest.fixture(scope="module")
def short(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Args:
    """Flags for a demo of a second, on the shipped model or a draft of it."""
    if shipped_model():
        return ("--questions", str(N), "-t", "1")
    model, data = request.getfixturevalue("draft")
    path = tmp_path_factory.mktemp("demo") / "short.jsonl"
    write_samples(path, [shortened(sample, N) for sample in read_samples(data)])
    return ("-m", str(model), "--sheets", str(path), "-t", "1")


@pytest.fixture(scope="module")
def long(request: pytest.FixtureRequest) -> Args:
    """Flags for a demo that is still there when Ctrl-C comes."""
    if shipped_model():
        return ("--questions", "60", "-t", "1")
    model, data = request.getfixturevalue("draft")
    return ("-m", str(model), "--sheets", str(data), "-t", "1")


@pytest.fixture(scope="module")
def whole(short: Args) -> dict[str, Any]:
    """The JSON object of a short demo; it is all that is printed."""
    args = ["demo", *short, "--json", "--log-samples"]
    result = CliRunner().invoke(app, args, prog_name="scope")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    return dict(json.loads(result.stdout))


def test_json_has_all_that_the_screen_shows(whole: dict[str, Any]) -> None:
    rows = whole["rows"]
    assert [row["title"] for row in rows] == TITLES
    assert not whole["interrupted"] and len(whole["samples"]) == 2
    numbers = {"accuracy", "cells_peak", "kv_bytes", "evicted", "tokens_written"}
    numbers |= {"tokens_per_second", "kept_of_prompt", "kept_of_output", "right", "questions"}
    for row in rows:
        assert row["finished"]
        assert all(isinstance(row[key], int | float) for key in numbers)
        assert row["questions"] == 2 * N and len(row["quarters"]) == 4
        assert row["right"] / row["questions"] == row["accuracy"]
        assert sum(row["quarters"]) / 4 == pytest.approx(row["accuracy"])
        assert row["tokens_written"] == sum(text["tokens_written"] for text in row["samples"])
    assert all(isinstance(line, str) for line in (*whole["story"], *whole["warnings"]))


def test_cells_are_within_the_budget_and_the_same_for_all(whole: dict[str, Any]) -> None:
    full, *bounded = whole["rows"]
    assert full["evicted"] == 0 and full["kept_of_prompt"] == full["kept_of_output"] == 1
    for row in bounded:
        for text, sheet in zip(row["samples"], whole["samples"], strict=True):
            assert text["cells_capacity"] == sheet["cells"] < text["prompt_tokens"] + 12 * N
            assert text["cells_peak"] <= sheet["cells"]
        assert row["evicted"] > 0
        assert row["cells_peak"] < full["cells_peak"]
        assert row["kv_bytes"] <= full["kv_bytes"]
        assert row["memory_bytes"] > row["kv_bytes"]
        keeps = row["policy"].startswith("scope-") and row["policy"] != "scope-retrieval"
        assert (row["kept_of_prompt"] == 1) == keeps


def test_accuracy_is_what_a_recount_of_the_texts_gives(whole: dict[str, Any]) -> None:
    for row in whole["rows"]:
        right: list[bool] = []
        for text in row["samples"]:
            prompt = text["sample"]["prompt"]
            assert worked_out(prompt) == text["sample"]["answers"]
            marks, share = recounted(prompt, text["output"])
            assert text["accuracy"] == share
            right += marks
        assert row["accuracy"] == sum(right) / len(right)
        for quarter in range(4):
            part = [right[i : i + N][quarter * 3 : quarter * 3 + 3] for i in (0, N)]
            assert row["quarters"][quarter] == sum(map(sum, part)) / 6
    assert whole["rows"][0]["accuracy"] > 0.5  # guessing: 0.1


def numbers_of(lines: list[str]) -> list[tuple[str, ...]]:
    """Title, per cents and cells of each row of a table, as shown."""
    form = re.compile(r"([\w ]+?) +\S+ +(\d+)%((?: +\d+){4}) +([\d,]+) +[\d.]+ ")
    found = [match for line in lines if (match := form.match(line))]
    return [(m[1], m[2], *m[3].split(), m[4].replace(",", "")) for m in found]


def numbers_in(whole: dict[str, Any]) -> list[tuple[str, ...]]:
    """The same from the JSON object."""
    return [
        (
            row["title"],
            *(f"{share * 100:.0f}" for share in (row["accuracy"], *row["quarters"])),
            str(row["cells_peak"]),
        )
        for row in whole["rows"]
    ]


def test_lines_have_the_numbers_of_json(run: Run, short: Args, whole: dict[str, Any]) -> None:
    result = run("demo", *short)
    assert result.exit_code == 0
    assert numbers_of(result.stdout.splitlines()) == numbers_in(whole)
    text = " ".join(result.stdout.split())
    assert all(sentence in text for sentence in whole["story"])
    assert re.fullmatch(r"about \d+ s left\n", result.stderr)


USAGE = [
    (["--samples", "0"], "--samples 0: give at least 1"),
    (["--samples", "100"], "--samples"),
    (["--beta", "0"], "--beta 0: give at least 1"),
    (["--beta", "5", "--budget", "1k"], "leave one out"),
    (["--budget", "7"], "the prompt alone takes"),
    (["--budget", "lots"], "'lots' is not understood"),
    (["--mix", "cocktail"], "valid are both, uniform, hubs"),
    (["--mix", "both"], "has 0 samples of the mix 'uniform'"),
    (["--questions", "3"], "leave it out"),
    (["--log-samples"], "give it with --json"),
    (["-t", "0"], "--threads"),
    (["--seed", "x"], "--seed"),
    (["--sheets", "missing.jsonl"], "missing.jsonl: No such file"),
]


@pytest.mark.parametrize(("args", "phrase"), USAGE, ids=lambda value: " ".join(value)[:30])
def test_wrong_requests(run: Run, tiny: Path, tmp_path: Path, args: list[str], phrase: str) -> None:
    path = tmp_path / "sheets.jsonl"
    write_samples(path, [by_hand()])
    mix = () if "--mix" in args else ("--mix", "hubs")
    assert_refused(run("demo", tiny, "--sheets", path, *mix, *args), 2, phrase)


@pytest.mark.parametrize("n", ["0", "257"])
def test_sheets_of_no_size(run: Run, tiny: Path, n: str) -> None:
    assert_refused(run("demo", tiny, "--questions", n), 2, f"--questions {n}")


def test_a_broken_file_of_sheets(run: Run, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "sheets.jsonl"
    write_samples(path, [by_hand()])
    path.write_text(path.read_text() + '{"prompt": 1}\n')
    assert_refused(run("demo", tiny, "--sheets", path), 2, "line 2")


def test_a_text_longer_than_the_model_can_write(run: Run, tiny: Path) -> None:
    assert_refused(run("demo", tiny, "--questions", 100), 2, "give fewer --questions")


def test_a_model_that_cannot_be_loaded(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no model")
    assert_refused(run("demo", tmp_path / "x.gguf"), 1, "x.gguf")


def test_ctrl_c_prints_the_rows_that_are_finished(long: Args) -> None:
    process = spawn("demo", *long)
    assert process.stdout is not None
    before = []
    for line in process.stdout:
        before.append(line.decode())
        if before[-1].startswith("full cache"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    text = " ".join(out.decode().split())
    assert "The full cache took" in text and "Stopped: " in text and " of 8 rows" in text
    assert b"Traceback" not in err


# -- the screen


@pytest.fixture(scope="module")
def runs(tiny: Path) -> Iterator[Demo]:
    """A finished demo of a model that knows nothing."""
    with Model.load(tiny) as model:
        demo = Demo(model, make_sheets(model, [by_hand()], 20, None), n_threads=1)
        for _ in demo.run():
            pass
        yield demo


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120, 300])
@pytest.mark.parametrize("rows", [2, 10, 24, 40])
def test_it_fits_into_any_terminal(runs: Demo, columns: int, rows: int) -> None:
    for now in (None, runs.outcomes[3]):
        shown = view.running(runs, now, columns, rows, SHADES[0])
        assert 0 < len(shown) < rows
        assert all(len(line.text) <= columns for line in shown)
    whole = view.whole(runs, columns, rows, SHADES[0])
    assert all(len(line.text) <= columns for line in whole)
    text = " ".join(line.text.strip() for line in whole)
    assert all(sentence in text for sentence in view.sentences(runs))
    assert all(title[: columns - 7] in text for title in TITLES)


def test_one_screen_of_80_by_24_has_everything(runs: Demo) -> None:
    shown = [line.text for line in view.whole(runs, 80, 24, SHADES[0])]
    assert len(shown) == 23
    text = "\n".join(shown)
    for part in ("KV cache", "by quarter", "tokens/s", "in memory at the end", "one mark is"):
        assert part in text
    assert text.count("StreamingLLM ") >= 2  # in the table and in the map


def test_no_mark_needs_unicode(runs: Demo) -> None:
    for lines in (
        view.whole(runs, 80, 40, SHADES[1]),
        view.running(runs, runs.outcomes[0], 80, 40, SHADES[1]),
        view.ending(runs, 80, SHADES[1]),
    ):
        assert all(line.text.isascii() for line in lines)


def test_maps_are_as_wide_as_the_text_is_long(runs: Demo) -> None:
    _, *maps, legend = (line.text for line in view.maps(runs, 80, SHADES[0], view.ALL_MAPS))
    per = int(re.match(r"one mark is (\d+) positions", legend)[1])  # type: ignore[index]
    for line, outcome in zip(maps, runs.outcomes[1:], strict=True):
        sheet, n_written = runs.sheets[0], outcome.texts[0].stats.n_generated
        prompt, output = re.sub(" ended early$", "", line[21:]).split("|")
        assert len(prompt) == -(-sheet.n_prompt // per)
        assert len(output) == -(-(n_written - 1) // per)
        whole = prompt == "█" * len(prompt)
        assert outcome.row.is_default or whole == outcome.row.is_scope


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 40)])
def test_live(short: Args, whole: dict[str, Any], columns: int, rows: int) -> None:
    Terminal = terminal_class()
    with Terminal("demo", *short, columns=columns, rows=rows) as session:
        session.wait("tokens | about", new=False)
        assert session.exit_code() == 0
        lines = session.lines()
        assert not session.screen.history.top  # one screen, and nothing scrolled off it
        assert numbers_of(lines) == numbers_in(whole)
        text = " ".join(session.text().split())
        assert all(text.count(sentence) == 1 for sentence in whole["story"])
        assert "Ctrl-C" not in text and " left" not in text
        assert all(len(line) <= columns for line in lines)
        assert session.raw.rindex(b"\x1b[?25h") > session.raw.rindex(b"\x1b[?25l")


def test_ctrl_c_on_a_terminal(long: Args) -> None:
    Terminal = terminal_class()
    with Terminal("demo", *long) as session:
        session.wait("SCOPE slide, text 1 of 2: ", new=False)
        session.send("\x03")
        assert session.exit_code() == 130
        text = " ".join(session.text().split())
        assert "Stopped: " in text and "The full cache took" in text
        assert b"Traceback" not in session.raw and b"\x1b[?25h" in session.raw


def terminal_class() -> Any:
    pytest.importorskip("pyte", reason="needs pyte, a terminal emulator")
    pytest.importorskip("pty", reason="needs a pseudo terminal")
    from .pty_screen import Terminal

    return Terminal


# -- the model of a command that is given none


def test_generate_without_a_model_takes_the_shipped_one(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "path", lambda: str(tiny))
    result = run("generate", "-p", "Hi", "-n", 3, "--temp", 0)
    assert result.exit_code == 0
    assert result.stdout == run("generate", tiny, "-p", "Hi", "-n", 3, "--temp", 0).stdout
    (line,) = result.stderr.splitlines()
    assert "reference model" in line and shipped.EXAMPLE in line
    assert run("generate", tiny, "-p", "Hi", "-n", 3).stderr == ""


def test_chat_without_a_model_takes_the_shipped_one(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "path", lambda: str(tiny))
    result = run("chat", "-n", 3, "--temp", 0, stdin="Hi")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == run("chat", tiny, "-n", 3, "--temp", 0, stdin="Hi").stdout
    assert result.stderr.count("reference model") == 1


def test_the_shipped_model_answers_what_is_typed(run: Run) -> None:
    if not shipped_model():
        pytest.skip("this checkout has no shipped model")
    result = run("chat", "-n", 60, "--temp", 0, stdin=shipped.EXAMPLE)
    assert result.exit_code == 0, result.stderr
    assert re.findall(r"\. A(\d)=(\d)", result.stdout) == [("1", "7"), ("2", "6")]
