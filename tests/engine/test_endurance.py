"""Many tokens in few cells: nothing grows, nothing drifts, nothing is forgotten by accident.

The runs are those of scripts/endurance.py, which a million tokens were written with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.engine.context import Context
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.native import kv_evict
from scope_cpp.native.library import llama_cpp
from tests.conftest import Tiny
from tests.engine.drive import open_context, random_tokens
from tests.native.state_bytes import parse

ROOT = Path(__file__).resolve().parents[2]
N, N_AGAIN, WARM_UP = 20_000, 5_000, 5_000
# in bytes for each token after the warm-up; what llama.cpp and Python allocate anew is about 1
MOST_GROWTH = 35
# larger arrays have pages of their own, which go with them: what is counted is what is held, not
# how the heap of glibc happened to be cut up, which may cost a whole array at any time
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "16384"}
TINY = {"n_embd": 64, "n_head": 4, "head_dim": 32, "n_ff": 64, "n_ctx_train": 32768}


@pytest.fixture(params=["tiny", "reference draft"])
def job(request: pytest.FixtureRequest, tiny: Tiny) -> tuple[list[str], int, int]:
    """Arguments of a run, its cells, and the tokens of its prompt."""
    if request.param == "tiny":
        return [str(tiny(**TINY)), "--cells", "256"], 256, 64
    shared = request.getfixturevalue("shared_dir")
    model = shared / "models" / "reference-draft-f16.gguf"
    samples = shared / "data" / "reference_draft_samples.jsonl"
    if not (model.exists() and samples.exists()):
        pytest.skip(f"no reference draft in {shared}")
    return [str(model), "--prompt", str(samples), "--cells", "512"], 512, 278


def start(arguments: list[str], log: Path, n: int) -> subprocess.Popen[str]:
    """Begin a run in a process of its own, where nothing else takes memory."""
    script = str(ROOT / "scripts" / "endurance.py")
    limits = ["--tokens", str(n), "--every", "1000", "--warm-up", str(WARM_UP)]
    growth = ["--growth", str(MOST_GROWTH * (N - WARM_UP) / 2**20)]
    return subprocess.Popen(
        [sys.executable, script, *arguments, *limits, *growth, "--log", str(log)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | MALLOC | {"PYTHONPATH": os.pathsep.join(paths)}


def finish(run: subprocess.Popen[str], log: Path) -> list[dict[str, Any]]:
    """Return the lines of the log; the script has found no fault."""
    out, _ = run.communicate()
    assert run.returncode == 0, out
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_twenty_thousand_tokens(job: tuple[list[str], int, int], tmp_path: Path) -> None:
    arguments, n_cells, n_prompt = job
    logs = {tmp_path / f"{n}.jsonl": n for n in (N, N_AGAIN)}
    runs = [start(arguments, log, n) for log, n in logs.items()]
    first, again = (finish(run, log) for run, log in zip(runs, logs, strict=True))

    assert [line["tokens"] for line in first] == list(range(1000, N + 1, 1000))
    for line in first:
        assert line["cells"] <= n_cells
        assert line["not_finite"] == 0
        assert line["position"] == n_prompt + line["tokens"] - 2  # the last is not decoded yet
        assert 0 < line["attention_loss"] < 1
    assert max(line["cells"] for line in first) == n_cells
    assert n_prompt + N - 1 - n_cells <= first[-1]["evicted"] < n_prompt + N
    after = {line["tokens"]: line["rss"] for line in first}
    assert after[N] - after[WARM_UP] <= MOST_GROWTH * (N - WARM_UP)
    assert len(again) == N_AGAIN // 1000
    assert [line["checksum"] for line in first[: len(again)]] == [
        line["checksum"] for line in again
    ]


def test_a_fault_is_named_and_ends_with_status_1(tiny: Tiny) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "endurance.py"), str(tiny(**TINY))]
    limits = ["--tokens", "300", "--cells", "128", "--every", "100", "--warm-up", "100"]
    run = subprocess.run(
        [*script, *limits, "--growth", "-1000"], env=environment(), capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "fault: memory grew by" in run.stdout


def test_rows_are_still_those_of_their_tokens(tiny: Tiny) -> None:
    """After 10,000 tokens a row of the first layer has the K of its token at its true position."""
    prompt = random_tokens(64)
    settings = Settings("scope-slide", budget=256, n_threads=1, n_threads_batch=1)
    sampling = SamplingParams(temp=0.8, seed=1, ignore_eos=True)
    quiet: dict[str, Any] = {"warn": lambda line: None}
    with (
        Model.load(tiny(**TINY)) as model,
        Generation(
            model, prompt, n_predict=N // 2, settings=settings, sampling=sampling, **quiet
        ) as generation,
    ):
        tokens = prompt + [int(response.token or 0) for response in generation]
        positions = generation.cache.positions()[0]
        keys = first_keys(generation.context)
    with open_context(tiny(**TINY), 256) as context:
        context.record_queries(1)  # what a state needs
        alone = {pos: key_alone(context, tokens[pos], pos) for pos in np.unique(positions).tolist()}
    for head, rows in enumerate(positions):
        assert np.unique(rows).size == rows.size > 240
        assert np.isin(np.arange(len(prompt)), rows).all()
        assert rows.max() == len(tokens) - 2 == 64 + N // 2 - 2
        for row, pos in enumerate(rows.tolist()):
            if pos >= len(prompt):  # a prompt is read in batches, whose products round differently
                assert np.array_equal(keys[row, head], alone[pos][head])


def first_keys(context: Context) -> np.ndarray:
    """K of the first layer, in the order of the cells' labels: bytes (row, KV head, n)."""
    state = parse(kv_evict.state_get(context.ptr, 0))
    return state.k[0][np.argsort(state.meta[:, 0])]


def key_alone(context: Context, token: int, position: int) -> np.ndarray:
    """K of a token at a position, which depends on nothing else there: bytes (KV head, n)."""
    llama_cpp.llama_memory_clear(context.memory, False)
    context.decode([token], position)
    return first_keys(context)[0]
