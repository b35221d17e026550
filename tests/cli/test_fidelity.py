"""``scope eval run --task fidelity``: rows and shares of the output, rows added, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from .conftest import Run, assert_refused

Fidelity = Callable[..., Result]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "a", "prompt": "Once upon"}\n{"id": "b", "prompt": "In the end"}\n')
    return path


@pytest.fixture
def fidelity(run: Run, tiny: Path, tmp_path: Path) -> Fidelity:
    def call(data: Path, *args: object) -> Result:
        return run(
            "eval", "run", tiny, "--task", "fidelity", "--data", data, "--task-option", "tokens=40",
            "--out", tmp_path / "run", *args,
        )  # fmt: skip

    return call


def test_one_command_measures_shares_and_rows_with_options(
    fidelity: Fidelity, run: Run, prompts: Path, tmp_path: Path
) -> None:
    rows = ("--rows", "h2o:decay=.99", "--row", "quarter: --policy h2o -o recent=beta/4")
    result = fidelity(prompts, *rows, "--beta", "1/4,30")
    assert result.exit_code == 0, result.stderr
    for size in ("1/4", "30"):
        assert result.stdout.count(f"| β = {size} | KL |") == 1
        assert f"β = {size}: " in result.stdout
    for name in ("h2o:decay=.99", "quarter"):
        assert result.stdout.count(f"| {name} | ") == 4, "two tables for each of two sizes"

    again = fidelity(prompts, "--rows", "tova", "--beta", "1/4")
    assert f"results go to {tmp_path / 'run'}" in again.stderr
    assert "| tova | " in again.stdout and "| quarter | " in again.stdout
    text = run("eval", "report", tmp_path / "run", "--markdown").stdout
    assert [line[:9] for line in text.splitlines()[:3]] == ["    scope", "    scope", ""]
    assert "| tova | " in text and "KL(full || row)" in text
    both = run("eval", "report", tmp_path / "run", tmp_path / "run").stdout
    assert both.splitlines()[0] == "| row | cases | mean KL | x best | worst | on |"
    assert "| tova | 2 | " in both and "| quarter | 4 | " in both
    whole = json.loads(run("eval", "report", tmp_path / "run", "--json").stdout)
    assert whole["rows"][-1]["row"] == "tova, beta 1/4"
    assert whole["rows"][-1]["samples"].keys() == {"a", "b"}


def test_a_text_that_is_too_short_says_that_nothing_was_evicted(
    fidelity: Fidelity, prompts: Path
) -> None:
    result = fidelity(prompts, "--rows", "h2o", "--beta", 40)
    assert result.exit_code == 0, result.stderr
    assert "| h2o | .0000 | nothing evicted | .0000 | 100.0% |" in result.stdout
    assert "β = 40: nothing evicted on 2 of 2 prompts" in result.stdout
    assert "nearest" not in result.stdout


def test_files_that_hold_no_prompts_are_refused_in_a_line(
    fidelity: Fidelity, prompts: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad"
    for content, reason in (
        (b"Write a story.\n", "(line 1: no JSON (Expecting value, column 1))"),
        (b"\x89PNG\r\n\x1a\n\x00", "(line 1: not UTF-8)"),
        (b'{"id": "a", "text": "b"}', "(line 1: no field 'prompt' (it has 'id', 'text'))"),
        (b'{"prompt": "  "}', "(line 1: 'prompt' must be a text that is not empty)"),
        (b'{"prompt": "a", "kind": 3}', "(line 1: 'kind' must be a text that is not empty)"),
        (b"", "is empty"),
    ):
        path.write_bytes(content)
        assert_refused(fidelity(path), 1, reason)
    assert_refused(fidelity(tmp_path / "nowhere.jsonl"), 2, "nowhere.jsonl does not exist")


def test_a_prompt_beyond_the_trained_positions_is_refused_in_a_line(
    fidelity: Fidelity, prompts: Path, tmp_path: Path
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"id": "long", "prompt": "abc " * 400}))
    result = fidelity(path, "--rows", "h2o")
    assert_refused(result, 1, "long: the prompt has ")
    assert "was trained on 512: give shorter prompts (--data)" in result.stderr
    with path.open("a") as file:
        file.write('\n{"id": "short", "prompt": "abc"}\n')
    result = fidelity(path, "--rows", "h2o", "--beta", "1/4")
    assert result.exit_code == 0
    assert "; skipped" in result.stderr
    result = fidelity(path, "--rows", "nonsense")
    assert_refused(result, 2, "row 'nonsense': unknown policy")  # before prompts are looked at


def test_a_kept_text_of_another_prompt_or_model_is_refused_in_a_line(
    fidelity: Fidelity, prompts: Path, tmp_path: Path
) -> None:
    asked = prompts.read_text()
    assert fidelity(prompts, "--rows", "full").exit_code == 0
    prompts.write_text('{"id": "a", "prompt": "Something else"}\n')
    result = fidelity(prompts, "--rows", "full")
    assert_refused(result, 2, "holds another run: other samples (--data, --limit)")
    texts = tmp_path / "run" / "reference"
    prompts.write_text(asked)
    (texts / "a.npz").write_bytes((texts / "b.npz").read_bytes())
    result = fidelity(prompts, "--rows", "full")
    assert_refused(result, 1, "a.npz belongs to another prompt: remove it, or name another folder")


@pytest.mark.parametrize("beta", ["0", "1/0", "7/6", "x", "-3", "0/4"])
def test_what_is_no_number_of_cells_is_refused(
    fidelity: Fidelity, prompts: Path, beta: str
) -> None:
    told = "give a number of cells of at least 1, or a share of the output such as 1/6"
    assert_refused(fidelity(prompts, f"--beta={beta}"), 2, told)
    assert_refused(fidelity(prompts, "--row", f"a: --policy h2o --beta {beta}"), 2, told)
