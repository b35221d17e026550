"""Program: what one libllama, with the backends beside it, makes of some models.

Usage: python -m tests.build.variant_child OUT.npz MODEL..., with the library's folder in
$LLAMA_CPP_LIB_PATH. It writes the logits of a fixed text under each model, and prints as JSON which
libraries of the CPU's backend it has loaded, and what the shipped model says within a budget.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from scope_cpp import Model, SamplingParams, Settings, generate
from scope_cpp.engine import logs
from scope_cpp.reference.shipped import model_path
from scope_cpp.reference.task import make_samples
from tests.native.harness import Session, random_tokens

N_PROMPT, N_MORE = 130, 20
N_QUESTIONS, BUDGET = 20, 256


def logits(path: str) -> np.ndarray:
    """Of a prompt read at once, and of tokens decoded one by one after it."""
    tokens = random_tokens(N_PROMPT + N_MORE)
    with Session(path) as session:
        prompt = session.decode(tokens[:N_PROMPT], 0)
        return np.concatenate([prompt, session.decode_each(tokens[N_PROMPT:], N_PROMPT)])


def text() -> str:
    """The shipped model's answers, for which cells are evicted."""
    (sample,) = make_samples("hubs", 1, 0, N_QUESTIONS, 20, 8)
    with Model.load(model_path()) as model:
        settings, sampling = Settings(budget=BUDGET), SamplingParams(temp=0)
        n_predict = 18 * N_QUESTIONS
        return generate(
            model, sample.prompt, n_predict=n_predict, settings=settings, sampling=sampling
        )[0]


if __name__ == "__main__":
    logs.capture()
    np.savez(sys.argv[1], *map(logits, sys.argv[2:]))
    answers = text()
    mapped = {Path(word).name for word in Path("/proc/self/maps").read_text().split()}
    loaded = sorted(name for name in mapped if "ggml-cpu" in name)
    print(json.dumps({"loaded": loaded, "text": answers}))
