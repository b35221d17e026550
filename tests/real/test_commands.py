"""The commands on a real instruct model, as a new user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine.settings import Settings
from tests.cli.conftest import spawn

FOX = "Write a short story about a fox."
GREEDY = ("--temp", 0, "-t", 1)


def succeed(*args: object, stdin: bytes | None = None, cwd: Path) -> tuple[str, str]:
    """Run a command to its end; return what it wrote on stdout and stderr."""
    extra: dict[str, Any] = {} if stdin is None else {"stdin": -1}
    process = spawn(*args, cwd=cwd, **extra)
    out, err = process.communicate(stdin, timeout=300)
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()


def test_a_prompt_is_answered_through_the_model_s_template(
    smollm2_path: Path, tmp_path: Path
) -> None:
    story, _ = succeed("generate", smollm2_path, "-p", FOX, "-n", 40, *GREEDY, cwd=tmp_path)
    assert "fox" in story
    assert len(story.split()) > 20


def test_a_raw_prompt_is_continued(smollm2_path: Path, tmp_path: Path) -> None:
    text = "The capital of France is"
    args = ("generate", smollm2_path, "--raw", "-p", text, "-n", 4, "--json", *GREEDY)
    found = json.loads(succeed(*args, cwd=tmp_path)[0])
    assert "Paris" in found["text"]


def test_a_chat_remembers_its_first_turn(smollm2_path: Path, tmp_path: Path) -> None:
    lines = b"My dog is called Bello.\nWhat is my dog called? Answer with the name only.\n"
    args = ("chat", smollm2_path, "-n", 24, *GREEDY)
    assert "Bello" in succeed(*args, stdin=lines, cwd=tmp_path)[0]


def test_a_batch_answers_messages_and_continues_prompts(smollm2_path: Path, tmp_path: Path) -> None:
    rows = (
        {"id": "chat", "messages": [{"role": "user", "content": FOX}]},
        {"id": "raw", "prompt": "The capital of France is"},
    )
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    succeed(
        "batch", smollm2_path, "-i", "in.jsonl", "-o", "out.jsonl", "-n", 24, "-np", 2, *GREEDY,
        cwd=tmp_path,
    )  # fmt: skip
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    text = {record["id"]: json.dumps(record) for record in map(json.loads, lines)}
    assert "fox" in text["chat"]
    assert "Paris" in text["raw"]


def test_a_client_is_answered_as_the_command_answers(smollm2_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")
    from tests.serve.service import running

    settings = Settings(n_threads=1, n_threads_batch=1)
    with running(smollm2_path, settings, {"temp": 0.0}, n_predict=60) as server:
        answer = server.client().chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": FOX}], max_tokens=30
        )
    assert "fox" in (answer.choices[0].message.content or "")
    assert answer.usage.prompt_tokens > 10


def test_a_schema_is_kept_to(smollm2_path: Path, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "legs": {"const": 4}},
        "required": ["name", "legs"],
        "additionalProperties": False,
    }
    out, _ = succeed(
        "generate", smollm2_path, "-p", "Describe a fox as JSON.", "-n", 60, "--json-schema",
        json.dumps(schema), *GREEDY, cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(out)
    assert found["legs"] == 4
    assert len(found["name"]) <= 20
