"""What must hold of every architecture that can be bounded, each with a tiny random model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scope_cpp.engine import known_files
from scope_cpp.native import kv_evict
from tests.architectures.hiding import (
    INTERVAL,
    N_KEPT,
    N_OUTPUT,
    N_PROMPT,
    N_QUERIES,
    TOKENS,
    TOLERANCE,
    Masked,
    begin,
    every_attention,
    evict,
    opened,
    read,
)
from tests.architectures.memories import READERS, RECURRENT, WINDOWED
from tests.architectures.table import ARCHITECTURES
from tests.architectures.verdicts import bounded
from tests.conftest import Tiny
from tests.engine.rows import greedily
from tests.native.harness import AttentionLog, error, random_tokens
from tests.native.heads import as_originals

every_arch = pytest.mark.parametrize("arch", bounded())


def all_experts(arch: str) -> dict[str, Any]:
    """Let every expert of a mixture answer, where rounding could choose another one."""
    n = ARCHITECTURES[arch].keys.get("expert_count")
    if n is None or arch == "grovemoe":  # its experts come in groups, of which one each answers
        return {}
    return {"expert_used_count": n}


@every_arch
@every_attention
def test_recording_changes_no_bit(tiny_arch: Tiny, arch: str, attention: str) -> None:
    logits = []
    for recording in (False, True):
        with opened(tiny_arch(arch=arch), attention) as session:
            if recording:
                kv_evict.init(session.ctx, N_QUERIES)
            logits += [session.decode(TOKENS[:N_PROMPT], 0)]
            logits += [session.decode_each(TOKENS[N_PROMPT : N_PROMPT + 20], N_PROMPT)]
    assert np.array_equal(logits[0], logits[2]) and np.array_equal(logits[1], logits[3])


@every_arch
@every_attention
def test_scores_are_the_weights_of_the_attention(
    tiny_arch: Tiny, arch: str, attention: str
) -> None:
    path, log = tiny_arch(arch=arch, **all_experts(arch)), AttentionLog()
    with opened(path, "plain", on_tensor=log.watch) as session:
        read(session)
    with opened(path, attention) as session:
        begin(session)
        layers, ids = kv_evict.layer_ids(session.ctx), kv_evict.cells(session.ctx, 0)[1]
        own = kv_evict.own_heads(session.ctx)[:, 1]
        for n in (1, N_QUERIES):
            scores = kv_evict.scores(session.ctx, 0, n, ids)
            queries = range(N_PROMPT - n, N_PROMPT)
            # window layers have as many cells here: each text is in the order of its tokens
            expected = np.zeros((own.size, own.max(), N_PROMPT), np.float32)
            for i, (layer, n_own) in enumerate(zip(layers.tolist(), own, strict=True)):
                readers = {layer, READERS.get(arch, {}).get(layer, layer)}
                weights = log.weights(n_own, queries, N_PROMPT, sorted(readers))
                expected[i, :n_own] = weights.sum(axis=0)
            expected = as_originals(session.ctx, expected)
            assert scores.sum() > 1
            # flash attention rounds what the next layers see: by up to .011 on CPUs with AVX-512
            atol = 1e-4 if attention == "plain" else 2e-2 * n
            np.testing.assert_allclose(scores, expected, rtol=0, atol=atol)


@every_arch
@every_attention
def test_evicting_is_hiding_from_the_layers_that_see_everything(
    tiny_arch: Tiny, arch: str, attention: str
) -> None:
    path, masked = tiny_arch(arch=arch, **all_experts(arch)), Masked(READERS.get(arch, {}))
    with (
        opened(path, attention) as session,
        opened(path, "plain", on_tensor=masked.watch) as full,
    ):
        rows, _ = begin(session), read(full)
        worst = 0.0
        for step, start in enumerate(range(N_PROMPT, N_PROMPT + N_OUTPUT, INTERVAL)):
            masked.hide(session.ctx, evict(rows, step))
            assert kv_evict.n_used(session.ctx) == N_KEPT
            tokens = TOKENS[start : start + INTERVAL]
            logits = session.decode_each(tokens, start)
            worst = max(worst, error(logits, full.decode_each(tokens, start)))
    assert worst < TOLERANCE[attention]
    with opened(path, attention) as session:
        read(session)
        unbounded = session.decode(TOKENS[N_PROMPT : start + INTERVAL], N_PROMPT)
        changed = error(logits, unbounded[-INTERVAL:])
    assert changed > 0.1, "nothing was lost: this shows nothing"


@every_arch
@every_attention
def test_rows_are_moved_bit_by_bit(tiny_arch: Tiny, arch: str, attention: str) -> None:
    with opened(tiny_arch(arch=arch), attention) as session:
        ctx, rows = session.ctx, begin(session)
        _, ids, _ = kv_evict.cells(ctx, 0)
        before = [kv_evict.rows(ctx, 0, ids, values=values) for values in (False, True)]
        evict(rows, 0)
        _, ids, _ = kv_evict.cells(ctx, 0)
        of = rows.held[:, :, ids]  # cells held position i in cell i before
        assert len(ids) == N_KEPT and (of != of[:1, :1]).any()
        for values, old in zip((False, True), before, strict=True):
            expected = np.take_along_axis(old, of[..., None], axis=2)
            assert np.array_equal(kv_evict.rows(ctx, 0, ids, values=values), expected)


@every_arch
@every_attention
def test_a_saved_sequence_goes_on_bit_by_bit(tiny_arch: Tiny, arch: str, attention: str) -> None:
    path = tiny_arch(arch=arch)
    with opened(path, attention) as session:
        rows = begin(session)
        evict(rows, 0)
        session.decode_each(TOKENS[N_PROMPT : N_PROMPT + 15], N_PROMPT)
        start = N_PROMPT + 15
        saved = kv_evict.state_get(session.ctx, 0)
        expected = session.decode_each(TOKENS[start : start + 40], start)
    with opened(path, attention) as session:
        kv_evict.init(session.ctx, N_QUERIES)
        session.decode(random_tokens(50, seed=9), 0)  # what is there is replaced
        kv_evict.state_set(session.ctx, 0, saved)
        assert kv_evict.state_get(session.ctx, 0) == saved
        assert np.array_equal(session.decode_each(TOKENS[start : start + 40], start), expected)


@every_arch
def test_a_damaged_state_leaves_nothing_of_the_sequence(tiny_arch: Tiny, arch: str) -> None:
    with opened(tiny_arch(arch=arch)) as session:
        begin(session)
        saved = kv_evict.state_get(session.ctx, 0)
        for cut in (saved[:-1], saved[: len(saved) // 2], saved + b"\0" * 4):
            with pytest.raises(kv_evict.NativeError, match="not a state"):
                kv_evict.state_set(session.ctx, 0, cut)
        assert kv_evict.state_get(session.ctx, 0) == saved


@every_arch
def test_two_sequences_are_each_as_if_alone(tiny_arch: Tiny, arch: str) -> None:
    path = tiny_arch(arch=arch)
    expected = []
    for seed in (0, 1):
        with opened(path, "plain") as session:
            evict(begin(session), seed)
            expected.append(session.decode_each(TOKENS[N_PROMPT : N_PROMPT + 30], N_PROMPT))
    with opened(path, "plain", n_seq=2) as session:
        rows = [begin(session), read(session, 1)]
        for seed, one in enumerate(rows):
            evict(one, seed)
        found = [
            session.decode_batch([(token, pos, (0,)), (token, pos, (1,))])
            for pos, token in enumerate(TOKENS[N_PROMPT : N_PROMPT + 30], N_PROMPT)
        ]
    for seq in (0, 1):
        assert error(np.stack([both[seq] for both in found]), expected[seq]) < TOLERANCE["plain"]


@every_arch
def test_memory_beside_the_cells_is_told(tiny_arch: Tiny, arch: str) -> None:
    with opened(tiny_arch(arch=arch)) as session:
        kv_evict.init(session.ctx, 1)
        held = kv_evict.memory(session.ctx)
        sizes = kv_evict.head_size(session.ctx), kv_evict.head_size(session.ctx, values=True)
        per_cell = int(kv_evict.own_heads(session.ctx)[:, 1].sum()) * sum(sizes) * 2
        assert sum(held["cells"]) == 256 * per_cell
        assert bool(sum(held["beside"])) == (arch in (*WINDOWED, *RECURRENT))
        assert sum(held["cells"]) + sum(held["beside"]) == kv_evict.n_bytes(session.ctx)


@every_arch
def test_a_long_text_stays_within_a_small_budget(tiny_arch: Tiny, arch: str) -> None:
    """With the default policy; llama.cpp counts the cells after every token."""
    n = 2000
    path = tiny_arch(arch=arch, context_length=4096)
    known_files.remember([path], weights=True)
    with greedily(path, 30, n, budget=130) as generation:
        used = [kv_evict.n_used(generation.context.ptr) for _ in generation]
        assert len(used) == n and max(used) == 130
        assert generation.stats.evicted == 30 + n - 1 - used[-1]
