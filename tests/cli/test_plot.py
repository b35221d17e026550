"""``scope plot``: files, terminal, JSON, and wrong requests."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from tests.figures.make_run import make_run, row

from .conftest import Run, assert_refused

FULL = [[1, 1, 1, 1]] * 2
H2O = [[1, 1, 0, 0]] * 2


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def folder(here: Path) -> Path:
    rows = {row("full"): FULL, row("h2o", 48, "h2o"): H2O}
    return make_run(here / "run", rows)


@pytest.fixture
def budgets(here: Path, folder: Path) -> list[Path]:
    return [folder, make_run(here / "more", {row("full"): FULL, row("h2o", 96, "h2o"): FULL})]


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_picture_and_its_numbers(run: Run, here: Path, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("plot", "questions", folder)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["wrote scope-questions.png", "wrote scope-questions.csv"]
    assert (here / "scope-questions.png").read_bytes().startswith(b"\x89PNG")
    scores = [float(line["score"]) for line in read(here / "scope-questions.csv")]
    assert scores == [1, 1, 1, 1, 1, 1, 0, 0]


def test_several_runs_in_one_picture(run: Run, here: Path, budgets: list[Path]) -> None:
    pytest.importorskip("matplotlib")
    result = run("plot", "budget", *budgets, "-o", "b.svg", "--csv", "numbers.csv")
    assert result.exit_code == 0, result.stderr
    assert "Accuracy against the decode budget" in (here / "b.svg").read_text()
    lines = read(here / "numbers.csv")
    assert [(line["row"], line["cells"], line["score"]) for line in lines] == [
        ("full", "", "1"),
        ("h2o", "48", "0.5"),
        ("h2o", "96", "1"),
    ]
    assert not list(here.glob("b.csv"))


@pytest.mark.parametrize("where", [("--text",), ("-o", "-")])
def test_in_the_terminal(run: Run, here: Path, folder: Path, where: tuple[str, ...]) -> None:
    before = set(here.iterdir())
    result = run("plot", "cost", folder, *where)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert "a.gguf, reference, 2 samples" in result.stdout
    assert "h2o" in result.stdout and "█" in result.stdout
    assert set(here.iterdir()) == before


def test_without_matplotlib_the_terminal_and_how_to_get_it(
    run: Run, here: Path, folder: Path, no_matplotlib: None
) -> None:
    result = run("plot", "questions", folder)
    assert result.exit_code == 0, result.stderr
    assert "Accuracy by question" in result.stdout
    assert result.stderr.splitlines() == [
        "a picture needs matplotlib: pip install 'scope-cpp[plot]'"
    ]
    assert not list(here.glob("scope-*"))
    assert_refused(run("plot", "questions", folder, "-o", "a.png"), 1, "-o a.png needs matplotlib")


def test_json(run: Run, folder: Path) -> None:
    result = run("plot", "questions", folder, "--only", "h2o", "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["figure"] == "questions"
    assert [line["score"] for line in content["rows"]] == [1, 1, 0, 0]


def test_drift(run: Run, here: Path, tiny: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("plot", "drift", tiny, "-p", "one two three", "-n", 20, "-o", "d.png",
                 "--layers", "0", "--top", "25%")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    lines = read(here / "d.csv")
    assert {line["layer"] for line in lines} == {"0"}
    assert {int(line["step"]) for line in lines} <= set(range(1, 20))
    assert (here / "d.png").stat().st_size > 5000


def test_heatmap(run: Run, tiny: Path) -> None:
    result = run("plot", "heatmap", tiny, "--raw", "-p", "one two three", "-n", 60, "--text",
                 "--policy", "streaming-llm", "--option", "sinks=2", "--budget", 24,
                 "--layer", 1, "--head", 0)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "layer 1, KV head 0" in result.stdout
    assert "tiny.gguf, streaming-llm, 24 cells" in result.stdout


def test_a_heatmap_in_which_nothing_is_given_up(run: Run, tiny: Path) -> None:
    result = run("plot", "heatmap", tiny, "--raw", "-p", "one two three", "-n", 20, "--text")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == (
        "warning: all fits into the budget, nothing is given up: give less (--budget)\n"
    )


WRONG = {
    "no run": (("questions", "nothing"), 2, "nothing holds no run of 'scope eval run'"),
    "one budget": (("budget", "run"), 2, "no method was run with two budgets"),
    "no prefill rows": (("prefill", "run"), 2, "no prefill method was run with two sizes"),
    "no such row": (("questions", "run", "--only", "x"), 2, "rows are full, h2o"),
    "format": (("cost", "run", "-o", "a.bmp"), 2, "-o a.bmp: name it *.png"),
    "folder": (
        ("cost", "run", "-o", "no/a.png"),
        2,
        "-o no/a.png: the folder no does not exist; make it first",
    ),
    "csv": (
        ("cost", "run", "--text", "--csv", "no/a"),
        2,
        "--csv no/a: the folder no does not exist; make it first",
    ),
    "no file": (("cost", "a.json"), 2, "a.json holds no run of 'scope eval run'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(run: Run, folder: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    arguments, code, message = WRONG[name]
    assert_refused(run("plot", *arguments), code, message)


LIVE = {
    "no layer": (("drift", "--layers", "7"), 2, "there is no layer 7: layers are 0 to 1"),
    "layers": (("drift", "--layers", "a"), 2, "--layers a: give whole numbers"),
    "share": (("drift", "--top", "0"), 2, "--top 0: give a share between 0 and 1"),
    "no share": (("drift", "--top", "x"), 2, "--top x: give a share"),
    "no head": (("heatmap", "--head", "9"), 2, "there is no KV head 9"),
    "no prompt": (("drift", "-p", ""), 2, "the prompt is empty"),
    "policy": (("heatmap", "--policy", "x"), 2, "unknown"),
}


@pytest.mark.parametrize("name", LIVE)
def test_wrong_requests_of_a_live_run(run: Run, tiny: Path, name: str) -> None:
    (kind, *arguments), code, message = LIVE[name]
    prompt = () if "-p" in arguments else ("-p", "one two three")
    result = run("plot", kind, tiny, *prompt, "-n", 20, "--text", *arguments)
    assert_refused(result, code, message)


def test_no_figure_is_drawn_for_what_can_not_be_written(run: Run, here: Path, tiny: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("plot", "drift", tiny, "-p", "one", "-n", 20, "-o", "no/d.png")
    assert_refused(result, 2, "-o no/d.png: the folder no does not exist")


def test_a_damaged_run(run: Run, folder: Path) -> None:
    (folder / "predictions.jsonl").write_text("{\n")
    assert_refused(run("plot", "questions", folder, "--text"), 1, "metrics.json was not made of")
