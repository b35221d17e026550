"""A bounded cache on a real instruct model, against stock llama.cpp and the full cache."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from scope_cpp.engine.chat import format_chat
from scope_cpp.engine.context import Context, ContextParams, Row
from scope_cpp.engine.generate import Generation, generate
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.native import kv_evict
from tests.engine.growth import SLACK, in_a_process
from tests.engine.stock_tokens import Job
from tests.engine.test_equality import write_stock

STORY = "Write a long story about a lighthouse keeper who finds a message in a bottle."
ONE_THREAD = {"n_threads": 1, "n_threads_batch": 1}


@pytest.fixture(scope="module")
def prompt(smollm2: Model) -> list[int]:
    text, _ = format_chat(smollm2, [{"role": "user", "content": STORY}])
    return smollm2.tokenize(text, add_special=True, parse_special=True)


def test_where_all_fits_every_token_is_stock_llama_cpp_s(
    smollm2: Model, smollm2_path: Path, prompt: list[int], tmp_path: Path
) -> None:
    job = Job(str(smollm2_path), prompt, 60, temp=0.8, seed=11)
    sampling = SamplingParams(temp=job.temp, seed=job.seed)
    values = {"settings": Settings(**ONE_THREAD), "sampling": sampling}
    with Generation(smollm2, prompt, n_predict=job.n_predict, **values) as generation:
        tokens = [response.token for response in generation]
    assert [tokens] == write_stock([job], tmp_path)


@pytest.mark.parametrize("flash_attn", ["on", "off"])
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_200_tokens_within_the_prompt_s_cells_and_96(
    smollm2: Model, prompt: list[int], flash_attn: str, kv: str
) -> None:
    if flash_attn == "off" and kv != "f16":
        pytest.skip("llama.cpp has no quantized V cache without flash attention")
    budget = len(prompt) + 96
    settings = Settings(budget=budget, type_k=kv, type_v=kv, flash_attn=flash_attn, **ONE_THREAD)
    sampling = SamplingParams(temp=0.7, seed=3, ignore_eos=True)
    values = {"n_predict": 200, "settings": settings, "sampling": sampling}
    words = ""
    with Generation(smollm2, prompt, **values) as generation:
        for response in generation:
            words += response.text
            assert kv_evict.n_used(generation.context.ptr) <= budget
        stats = generation.stats
    assert stats.n_generated == 200
    assert stats.evicted == len(prompt) + 199 - stats.cells_used
    assert len(set(words.split())) > 50  # it goes on with words, not with one word for ever


def test_until_the_pool_overflows_all_tokens_are_the_full_cache_s(
    smollm2: Model, prompt: list[int]
) -> None:
    common = {"n_predict": 96, "sampling": SamplingParams(temp=0, ignore_eos=True)}
    same_path = {"flash_attn": "on", **ONE_THREAD}
    full, _ = generate(smollm2, prompt, settings=Settings(policy="full", **same_path), **common)
    settings = Settings(budget=len(prompt) + 64, **same_path)
    bounded, last = generate(smollm2, prompt, settings=settings, **common)
    assert last.stats.evicted > 0
    tokens = [smollm2.tokenize(text, add_special=False)[:60] for text in (full, bounded)]
    assert tokens[0] == tokens[1]


def test_rows_in_one_batch_have_the_logits_that_each_has_alone(
    smollm2: Model, prompt: list[int]
) -> None:
    """Where llama.cpp has one way only to multiply by the weights, see docs/serve.md."""
    params = ContextParams(1024, n_seq_max=4, flash_attn="on", **ONE_THREAD)
    tokens = smollm2.tokenize("The keeper found three bottles in the sand")[:4]

    def logits(seqs: list[int]) -> list[np.ndarray]:
        with Context(smollm2, params) as context:
            context.decode(prompt, 0, seqs[0])
            for seq in seqs[1:]:
                context.share(seqs[0], seq, len(prompt))
            for pos, token in enumerate(tokens, len(prompt)):
                context.decode_rows([Row(token + seq, pos, seq, True) for seq in seqs])
            return [context.logits(i) for i in range(len(seqs))]

    together = logits([0, 1, 2])
    for seq in range(3):
        np.testing.assert_array_equal(together[seq], logits([seq])[0])


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_the_process_grows_by_what_was_forecast(smollm2_path: Path) -> None:
    """The weights are there before; without the cells or the buffers it would be too little."""
    job = {"kind": "generate", "n_prompt": 500, "n_predict": 60, "n_cells": 512}
    settings = {"budget": 512, "policy": "scope-slide"}
    found = in_a_process(smollm2_path, **job, settings=settings)
    assert found["told"] <= found["forecast"]
    assert 0.6 * found["forecast"] <= found["grown"] <= found["forecast"] + SLACK, found
    for part in ("kv", "compute"):
        assert found["grown"] > found["forecast"] - found["parts"][part] + SLACK, (part, found)
