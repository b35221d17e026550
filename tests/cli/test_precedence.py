"""Flag over environment variable over config file over the model's defaults over llama.cpp's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scope_cli import convert
from scope_cli.flags import SamplingFlags

from scope_cpp.engine.model import Model

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
    got = generate("-n", 20, "--budget", 16)
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
    monkeypatch.setattr(convert, "model_defaults", lambda model: {"top_k": 7, "temp": 0.3})
    values = convert.sampling_values(SamplingFlags(temp=0.5, seed=3))
    with Model.load(tiny) as model:
        params = convert.sampling_params(model, values)
    assert (params.temp, params.top_k, params.seed) == (0.5, 7, 3)
    assert params.top_p == 0.95


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ("config = 'x'", "unknown key 'config'"),
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
