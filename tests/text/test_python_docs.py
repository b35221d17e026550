"""The package as people meet it: what Tab shows, types, and the examples of docs/python.md."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import scope_cpp
from tests.conftest import Tiny

ROOT = Path(__file__).parents[2]
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"

SCRIPT = """
from __future__ import annotations

from collections.abc import Iterator

from scope_cpp import (
    Answer,
    Conversation,
    Generation,
    Model,
    Response,
    SamplingParams,
    ScopeError,
    Settings,
    Stats,
    UsageError,
    chat,
    generate,
    stream_generate,
)


def texts(path: str) -> Iterator[str]:
    with Model.load(path, n_gpu_layers=0) as model:
        messages = [{"role": "user", "content": "Hello"}]
        settings = Settings(policy="scope-slide", budget="2k", options=("beta1=256",))
        sampling = SamplingParams(temp=0.7, seed=1)
        for response in stream_generate(model, messages, settings=settings, sampling=sampling):
            yield response.text
        text, last = generate(model, "Once", n_predict=3, stop=["end"])
        tokens: list[int] = model.tokenize(text)
        stats: Stats = last.stats
        yield f"{text.upper()} {stats.cells_used + 1} {last.finish_reason} {len(tokens)}"
        with Generation(model, tokens) as generation:
            first: Response = next(iter(generation))
            yield str(first)
        with chat(model, system="Be brief.", n_predict=5) as talk:
            held: Conversation = talk
            said: str = held.say("Hi")
            answer: Answer = held.ask("And")
            yield said + "".join(part.text for part in answer)


def main() -> None:
    try:
        print("".join(texts("model.gguf")))
    except UsageError as err:
        print(err)
    except ScopeError as err:
        raise SystemExit(str(err)) from None
"""


def python(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_what_tab_shows() -> None:
    assert set(scope_cpp.__all__) <= set(dir(scope_cpp))
    assert {"Model", "chat", "generate", "stream_generate", "__version__"} <= set(dir(scope_cpp))
    for name in scope_cpp.__all__:
        assert getattr(scope_cpp, name).__doc__.strip()
    with pytest.raises(AttributeError, match="no attribute 'Generate'"):
        scope_cpp.Generate  # noqa: B018


def test_an_import_loads_nothing() -> None:
    said = python(
        "-c",
        "import scope_cpp, sys; dir(scope_cpp); print('numpy' in sys.modules);"
        "print('scope_cpp.native' in sys.modules); scope_cpp.Settings; scope_cpp.SamplingParams;"
        "print('llama_cpp' in sys.modules)",
    )
    assert said.stdout.split() == ["False", "False", "False"], said.stderr


def test_help_is_readable() -> None:
    said = python("-c", "import scope_cpp; help(scope_cpp.generate); help(scope_cpp.chat)")
    assert said.returncode == 0
    assert "template: 'str | None' = None" in said.stdout
    assert "Write to the end." in said.stdout and "Begin a conversation" in said.stdout


def test_a_typed_script_passes_strictly(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    said = python("-m", "mypy", "--strict", "script.py", cwd=tmp_path)
    assert said.returncode == 0, said.stdout
    (tmp_path / "script.py").write_text(SCRIPT.replace("said: str", "said: int"))
    said = python("-m", "mypy", "--strict", "script.py", cwd=tmp_path)
    assert said.returncode == 1 and "Incompatible types" in said.stdout


def test_the_examples_of_the_docs(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs/python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "model.gguf").symlink_to(tiny(chat_template=TEMPLATE, n_ctx_train=4096))
    said: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of budgets this small
        for block in blocks:
            exec(compile(block, "docs/python.md", "exec"), said)
    shown = capsys.readouterr().out
    assert "the model model.gguf is closed: load it again\n" in shown
    assert "temp is -3: give a number within 0 to 100\n" in shown
    assert "stop is 'END': give a list of texts\n" in shown
    assert [message["role"] for message in said["talk"].messages] == ["system", "user", "assistant"]
    assert said["last"].stats.cells_peak <= 100 < said["last"].stats.n_generated + 20
    assert len(said["notes"]) >= 1
    assert len(blocks) >= 8
