"""Program: the tokens that llama.cpp writes with its own samplers, with whatever libllama it finds.

Usage: python -m tests.engine.stock_tokens JOBS.json

A job has the fields of `Job`. Prints, as JSON, whether the library has our hooks and the tokens of
every job. Nothing of the engine is used: only the bindings.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scope_cpp.native.library import llama_cpp


@dataclass(frozen=True)
class Job:
    """A model, a prompt, and how to go on; the sampling is llama.cpp's usual chain."""

    model: str
    prompt: list[int]
    n_predict: int
    temp: float
    seed: int = 0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    kv: int = 1  # enum ggml_type


def write(job: Job) -> list[int]:
    """Tokens up to the one that ends the generation, or `n_predict` of them."""
    model = llama_cpp.llama_model_load_from_file(
        job.model.encode(), llama_cpp.llama_model_default_params()
    )
    vocab = llama_cpp.llama_model_get_vocab(model)
    ctx = llama_cpp.llama_init_from_model(model, _context(job))
    chain = _samplers(job)
    tokens: list[int] = []
    batch = list(job.prompt)
    while len(tokens) < job.n_predict:
        array = (llama_cpp.llama_token * len(batch))(*batch)
        status = llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(array, len(batch)))
        assert status == 0, f"llama_decode returned {status}"
        batch = [llama_cpp.llama_sampler_sample(chain, ctx, -1)]
        tokens += batch
        if llama_cpp.llama_vocab_is_eog(vocab, batch[0]):
            break
    llama_cpp.llama_sampler_free(chain)
    llama_cpp.llama_free(ctx)
    llama_cpp.llama_model_free(model)
    return tokens


def _context(job: Job) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = len(job.prompt) + job.n_predict
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = job.kv
    return params


def _samplers(job: Job) -> Any:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    samplers = [llama_cpp.llama_sampler_init_greedy()]
    if job.temp > 0:
        samplers = [
            llama_cpp.llama_sampler_init_top_k(job.top_k),
            llama_cpp.llama_sampler_init_top_p(job.top_p, 0),
            llama_cpp.llama_sampler_init_min_p(job.min_p, 0),
            llama_cpp.llama_sampler_init_temp(job.temp),
            llama_cpp.llama_sampler_init_dist(job.seed),
        ]
    for sampler in samplers:
        llama_cpp.llama_sampler_chain_add(chain, sampler)
    return chain


def main(jobs: Path) -> None:
    llama_cpp.llama_backend_init()
    tokens = [write(Job(**job)) for job in json.loads(jobs.read_text())]
    hooks = hasattr(llama_cpp.llama_cpp._lib, "llama_kv_evict_abi")
    print(json.dumps({"hooks": hooks, "tokens": tokens}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
