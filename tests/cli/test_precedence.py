"""Flag over environment variable over config file over the model's defaults over llama.cpp's."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scope_cli import convert
from scope_cli.flags import SamplingFlags

from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling_params import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.reference.tiny_model import write_tiny_model
from scope_cpp.serve import serving
from scope_cpp.serve.options import Options

from .conftest import Run, assert_refused

Generate = Callable[..., dict[str, Any]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    path = tmp_path / "run.toml"
    path.write_text(
        'prompt = "Hello cat"\nn-predict = 40\nbudget = 32\npolicy = "h2o"\nlogit_bias = ["9=1"]\n'
        "[option]\nheavy = 5\nrecent = 6\n"
    )
    return path


def test_a_config_gives_what_nobody_else_gives(generate: Generate, config: Path) -> None:
    got = generate("--config", config)
    assert got["usage"]["completion_tokens"] == 40
    assert got["policy"] == "h2o"
    assert (got["options"]["decode"]["heavy"], got["options"]["decode"]["recent"]) == (5, 6)


def test_variables_win_over_the_config_and_flags_over_both(
    generate: Generate, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOPE_N_PREDICT", "30")
    monkeypatch.setenv("SCOPE_POLICY", "streaming-llm")
    monkeypatch.setenv("SCOPE_OPTION", "sinks=2 recent=7")
    monkeypatch.setenv("SCOPE_CONFIG", str(config))
    got = generate("--raw", "-n", 20, "--budget", 16)
    assert got["usage"]["completion_tokens"] == 20
    assert got["policy"] == "streaming-llm"
    assert got["options"]["decode"] == {"sinks": 2, "recent": 7}


def test_a_path_on_the_command_line_wins_over_a_variable(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOPE_MODEL", "missing.gguf")
    assert run("inspect", tiny).exit_code == 0
    assert run("inspect", "-m", tiny).exit_code == 0
    assert_refused(run("inspect"), 2, "missing.gguf")


def test_the_models_own_sampling_values(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "model_defaults", lambda model, warn: {"top_k": 7, "temp": 0.3})
    values = convert.sampling_values(SamplingFlags(temp=0.5, seed=3))
    with Model.load(tiny) as model:
        params = convert.sampling_params(model, values)
    assert (params.temp, params.top_k, params.seed) == (0.5, 7, 3)
    assert params.top_p == 0.95


WRONG_IN_THE_FILE = (
    ("general.sampling.temp", -3.0),
    ("general.sampling.top_p", math.nan),
    ("general.sampling.top_k", 1.5),
    ("general.sampling.min_p", math.inf),
    ("general.sampling.penalty_last_n", "many"),
    ("general.sampling.penalty_repeat", 0.0),
)


@pytest.mark.parametrize("command", ["generate", "batch", "chat"])
def test_the_models_own_values_that_cannot_be(run: Run, tmp_path: Path, command: str) -> None:
    """The user gave none of them: one line, and the defaults."""
    path = write_tiny_model(tmp_path / "odd.gguf", metadata=WRONG_IN_THE_FILE)
    given = {
        "generate": (["-p", "Hi", "-n", 3], None),
        "batch": (["-i", "-", "-o", "-", "-n", 3], '{"id": "a", "prompt": "Hi"}\n'),
        "chat": (["-n", 3], "Hi\n/set temp default\n"),
    }
    args, stdin = given[command]
    result = run(command, path, *args, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if "general.sampling" in line]
    assert len(lines) == 1 and lines[0].startswith("warning: odd.gguf: ")
    for key, _ in WRONG_IN_THE_FILE:
        assert f"{key} is '" in lines[0]
    assert "general.sampling.temp is '-3.000000', not a number within 0 to 100" in lines[0]
    with Model.load(path) as model:
        assert convert.sampling_params(model, {}) == SamplingParams()
        told: list[str] = []
        serving.make_serving(model, Options(), None, Settings(), {}, None, told.append)
        assert len(told) == 1


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ("config = 'x'", "unknown key 'config'"),
        ("bugdet = 3", "unknown key 'bugdet' (did you mean budget?)"),
        ("N_Predict = 3", "unknown key 'N-Predict' (did you mean n-predict"),
        ("temp = ", "not valid TOML"),
        ("temp = 'warm'", "--temp"),
        ("budget = true", "budget 'True'"),
    ],
)
def test_a_config_that_is_wrong(run: Run, tiny: Path, config: Path, text: str, phrase: str) -> None:
    config.write_text(text)
    assert_refused(run("generate", tiny, "-p", "Hi", "-n", 3, "--config", config), 2, phrase)


def test_a_config_serves_other_commands_too(run: Run, tiny: Path, config: Path) -> None:
    assert run("inspect", tiny, "--config", config).exit_code == 0


def test_without_a_toml_parser(
    run: Run, tiny: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    assert_refused(run("inspect", tiny, "--config", config), 2, "pip install tomli")
