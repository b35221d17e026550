"""Where everything fits, the output is stock llama.cpp's, token by token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from tests.conftest import Tiny
from tests.engine.drive import POLICIES, random_tokens
from tests.engine.stock_tokens import Job

N_TINY, N_STORY = 200, 400
STORY = "Once upon a time, there was a little dog who"


def write_stock(jobs: Sequence[Job], folder: Path) -> list[list[int]]:
    """Run the jobs on the library in $SCOPE_STOCK_LIB: a process holds only one libllama."""
    library = os.environ.get("SCOPE_STOCK_LIB")
    if not library:
        pytest.skip("no unpatched libllama: set SCOPE_STOCK_LIB to the folder it lies in")
    listed = folder / "jobs.json"
    listed.write_text(json.dumps([asdict(job) for job in jobs]))
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"LLAMA_CPP_LIB_PATH": library, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "tests.engine.stock_tokens", str(listed)]
    result = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout)
    assert report["hooks"] is False
    tokens: list[list[int]] = report["tokens"]
    return tokens


def write_ours(model: Model, job: Job, **settings: Any) -> list[int]:
    """Tokens of the same job by the engine."""
    names = {0: "f32", 1: "f16", 8: "q8_0"}
    kinds = {"type_k": names[job.kv], "type_v": names[job.kv]}
    generation = Generation(
        model,
        job.prompt,
        n_predict=job.n_predict,
        settings=Settings(n_threads=1, n_threads_batch=1, **kinds, **settings),
        sampling=SamplingParams(temp=job.temp, seed=job.seed),
    )
    with generation:
        tokens = [response.token for response in generation]
        assert generation.stats.evicted == generation.stats.selections == 0
    return [token for token in tokens if token is not None]


@pytest.fixture(scope="module")
def tiny_jobs(tiny: Tiny) -> list[Job]:
    path, prompt = str(tiny()), random_tokens(60)
    return [
        Job(path, prompt, N_TINY, temp=0),
        Job(path, prompt, N_TINY, temp=0.8, seed=7),
        Job(path, prompt, N_TINY, temp=0.8, seed=8),
        Job(path, prompt, N_TINY, temp=0.8, seed=7, kv=8),
    ]


@pytest.fixture(scope="module")
def tiny_stock(tiny_jobs: list[Job], tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    return write_stock(tiny_jobs, tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[Model]:
    with Model.load(tiny()) as model:
        yield model


# a budget of prompt and output, a larger one, the default one, and a share of the length
FITTING = [60 + N_TINY, 2000, None, "100%"]


@pytest.mark.parametrize("budget", FITTING, ids=str)
@pytest.mark.parametrize("policy", [None, "full", *POLICIES])
def test_a_budget_of_the_full_length(
    model: Model,
    tiny_jobs: list[Job],
    tiny_stock: list[list[int]],
    policy: str | None,
    budget: str | int | None,
) -> None:
    assert len({tuple(tokens) for tokens in tiny_stock}) == len(tiny_jobs)
    for job, expected in zip(tiny_jobs[:2], tiny_stock[:2], strict=True):
        assert len(expected) == N_TINY
        assert write_ours(model, job, policy=policy, budget=budget) == expected


@pytest.mark.parametrize("more", [{"granularity": "cell"}, {"prefill": "snapkv"}], ids=str)
def test_other_settings_change_nothing(
    model: Model, tiny_jobs: list[Job], tiny_stock: list[list[int]], more: dict[str, str]
) -> None:
    for job, expected in zip(tiny_jobs, tiny_stock, strict=True):
        assert write_ours(model, job, policy="h2o", budget="100%", **more) == expected


def test_a_small_budget_makes_a_difference(
    model: Model, tiny_jobs: list[Job], tiny_stock: list[list[int]]
) -> None:
    job = tiny_jobs[0]
    settings = Settings(budget=120, n_threads=1, n_threads_batch=1)
    sampling = SamplingParams(temp=0)
    generation = Generation(
        model,
        job.prompt,
        n_predict=N_TINY,
        settings=settings,
        sampling=sampling,
        warn=lambda line: None,
    )
    with generation:
        tokens = [response.token for response in generation]
        assert generation.stats.evicted > 0
    assert tokens != tiny_stock[0]
    # until the first eviction there was nothing to tell them apart
    assert tokens[: 120 - 60] == tiny_stock[0][: 120 - 60]


@pytest.mark.parametrize("policy", ["full", "scope-slide"])
def test_a_story(shared_dir: Path, tmp_path: Path, policy: str) -> None:
    path = shared_dir / "models" / "stories260K-f32.gguf"
    with Model.load(path) as model:
        prompt = model.tokenize(STORY)
        jobs = [
            Job(str(path), prompt, N_STORY, temp=0),
            Job(str(path), prompt, N_STORY, temp=0.8, seed=3),
        ]
        for job, expected in zip(jobs, write_stock(jobs, tmp_path), strict=True):
            assert len(expected) > 50
            assert write_ours(model, job, policy=policy) == expected
