"""Mean negative log-likelihood of a text under each policy at equal cells.

    python scripts/nll_table.py MODEL.gguf TEXT [--budget 256] [--tokens 2048] [--windows 8]

The text is read as if it were being generated: the first `--prompt` tokens of a window are the
prompt, each further token is decoded through the bounded cache, and its logarithmic probability
under the logits before it counts. Nats per token; the full cache is always a row of the table.
Documents are separated by <|endoftext|>; each begins with the BOS token, as in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from scope_cpp.engine.cache import BoundedCache
from scope_cpp.engine.context import Context, ContextParams
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings, resolve

POLICIES = {
    "full": Settings(policy="full"),
    "slide": Settings(policy="scope-slide"),
    "slide, whole cells": Settings(policy="scope-slide", granularity="cell"),
    "slide every 16": Settings(policy="scope-slide", options=("interval=16",)),
    "adaptive": Settings(policy="scope-adaptive"),
    "discontinuous": Settings(policy="scope-discontinuous"),
    "H2O": Settings(policy="h2o"),
    "StreamingLLM": Settings(policy="streaming-llm"),
}


def open_cache(
    model: Model, settings: Settings, budget: int | None, n_prompt: int, n_predict: int
) -> BoundedCache:
    """Return a cache with the settings' policies within `budget` cells."""
    dials = Settings(**(vars(settings) | {"budget": budget}))
    sizes = resolve(dials, model, n_prompt, n_predict)
    context = Context(model, ContextParams(n_cells=sizes.capacity, n_threads=1))
    return BoundedCache(
        context,
        sizes.capacity,
        sizes.decode,
        sizes.prefill,
        whole_cells=settings.granularity == "cell",
        n_predict=n_predict,
        bounded=sizes.bounded,
    )


def nll(cache: BoundedCache, tokens: list[int], n_prompt: int) -> np.ndarray:
    """Return the negative log-likelihood of each token after the prompt, in nats."""
    cache.prefill(tokens[:n_prompt])
    found = []
    for token in tokens[n_prompt:]:
        logits = cache.context.logits().astype(np.float64)
        found.append(np.logaddexp.reduce(logits) - logits[token])
        cache.decode(token)
    return np.array(found)


def read_tokens(model: Model, text: str) -> list[int]:
    """Tokenize document after document, each with its BOS."""
    documents = (document.strip() for document in text.split("<|endoftext|>"))
    tokens = (model.tokenize(each, add_special=True, parse_special=False) for each in documents)
    return [token for document in tokens for token in document]


def main() -> None:
    """Print a Markdown table: the mean over windows, by quarter of the window."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--budget", type=int, default=256, help="cells in all, prompt included")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=8)
    args = parser.parse_args()
    model = Model.load(args.model, n_gpu_layers=0)
    text = read_tokens(model, args.text.read_text())
    windows = [text[i * args.tokens : (i + 1) * args.tokens] for i in range(args.windows)]
    print("| policy | cells, most | mean | by quarter of the window |")
    print("|---|---|---|---|")
    for name, settings in POLICIES.items():
        budget = None if settings.policy == "full" else args.budget
        rows = []
        for tokens in windows:
            cache = open_cache(model, settings, budget, args.prompt, len(tokens) - args.prompt)
            with cache.context:
                rows.append(nll(cache, tokens, args.prompt))
        mean = np.mean(rows, axis=0)
        quarters = " ".join(f"{part.mean():.3f}" for part in np.array_split(mean, 4))
        print(f"| {name} | {cache.stats.cells_peak} | {mean.mean():.3f} | {quarters} |", flush=True)


if __name__ == "__main__":
    main()
