"""What a run adds to the resident memory of its process: ``python -m tests.engine.growth``.

Takes a JSON object of a job and prints one of numbers. The weights are read, not mapped, before the
first measurement, and a small run has touched what all runs need (code, threads, allocators).
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.footprint import Footprint
from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import ParallelEngine, Request
from scope_cpp.engine.parallel.cells import MOST_RESTING, usual_ring
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.sizes import CHAT_QUERIES
from tests.native.harness import random_tokens

GREEDY = SamplingParams(temp=0, ignore_eos=True)
SMALL = 256  # cells of the run before
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
# what Python's objects and its allocator take
SLACK = 2 * 2**20


def in_a_process(path: Path, **job: Any) -> dict[str, Any]:
    """Run a job in a process of its own; what was forecast, what was told, what it grew by."""
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.growth", json.dumps(job | {"model": str(path)})],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def resident(what: str) -> int:
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def generate(model: Model, settings: Settings, n_prompt: int, n: int) -> int:
    """Write a text; return what the statistics say that it took."""
    prompt = random_tokens(n_prompt)
    with Generation(
        model, prompt, n_predict=n, settings=settings, sampling=GREEDY, warn=lambda line: None
    ) as generation:
        return [response.stats.memory_bytes for response in generation][-1]


def chat(model: Model, settings: Settings, n_prompt: int, n: int) -> int:
    """Hold a conversation that fills its cache."""
    with Conversation(
        model,
        settings=settings,
        sampling=GREEDY,
        template=TEMPLATE,
        n_predict=n // 3,
        warn=lambda line: None,
    ) as talk:
        for _ in range(3):
            for _ in talk.ask("a b c d e f g h " * (n_prompt // 48)):
                pass
        return talk.stats.memory_bytes


def parallel(model: Model, settings: Settings, n_prompt: int, n: int, n_cells: int) -> int:
    """Write four texts at once, with prompts that rest; return the engine's own figure."""
    with ParallelEngine(
        model,
        n_parallel=4,
        n_cells=n_cells,
        settings=settings,
        prefix_cells=n_cells // 4,
        warn=lambda line: None,
    ) as engine:
        for i in range(6):
            prompt = tuple(random_tokens(n_prompt, seed=i))
            engine.submit(Request(prompt, n, sampling=GREEDY), i)
        most = 0
        while engine.busy:
            engine.step()
            most = max(most, engine.memory().total)
        return most


def expected(model: Model, job: dict[str, Any], settings: Settings) -> Footprint:
    with Forecast(model) as forecast:
        more: dict[str, Any] = {}
        if job["kind"] == "chat":
            more = {"n_recorded": CHAT_QUERIES}
        if job["kind"] == "parallel":
            ring = usual_ring(settings, job["n_cells"])
            more = {"n_recorded": ring, "n_parallel": 4, "n_resting": MOST_RESTING}
        return forecast.of_run(settings, job["n_cells"], bounded=True, **more)


def run(model: Model, job: dict[str, Any], settings: Settings, share: int = 1) -> int:
    n_prompt, n = job["n_prompt"] // share, job["n_predict"] // share
    if job["kind"] == "parallel":
        return parallel(model, settings, n_prompt, n, job["n_cells"] // share)
    return {"generate": generate, "chat": chat}[job["kind"]](model, settings, n_prompt, n)


def main(job: dict[str, Any]) -> dict[str, Any]:
    settings = Settings(n_threads=1, n_threads_batch=1, **job["settings"])
    with Model.load(job["model"], use_mmap=False) as model:
        forecast = expected(model, job, settings)
        small = Settings(**vars(settings) | {"budget": SMALL})
        run(model, job, small, share=8)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
        told = run(model, job, settings)
        return {
            "forecast": forecast.total,
            "parts": vars(forecast),
            "told": told,
            "grown": resident("VmHWM") - before,
        }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
