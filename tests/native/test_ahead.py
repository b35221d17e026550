"""What a device says of new cells: the same as NumPy of the rows, and as ``likeness``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.native import kv_evict
from scope_cpp.policies.scores.foresight import Asked
from tests.conftest import Tiny
from tests.native.harness import CACHES, Session, random_tokens
from tests.native.heads import Rows, random_keep

N_PROMPT, N_NEW, N_ASKED = 50, 7, 5
ARGUMENT, QUERIES = -21, -22

# products of f16 numbers, as which GPUs multiply floats too, or of quantized ones made floats
TOLERANCE = 2e-3

Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int32]


def ask(session: Session, seq: int = 0) -> Asked:
    """Queries of the last tokens, in NumPy and beside the cells."""
    queries = kv_evict.queries(session.ctx, seq, N_ASKED, 400).astype(np.float16)
    asked = Asked.anew(queries)
    kv_evict.ahead_set(session.ctx, seq, asked.queries, asked.prompt, asked.output)
    return asked


def every_layer(session: Session) -> Bools:
    return np.ones(kv_evict.n_layer(session.ctx), np.bool_)


def nothing(session: Session, ids: Ids) -> Bools:
    return np.zeros((every_layer(session).size, kv_evict.n_head_kv(session.ctx), ids.size), bool)


def weigh(
    session: Session, ids: Ids, n_new: int = N_NEW, seq: int = 0, **options: Any
) -> tuple[Any, Any]:
    layers = options.pop("layers", every_layer(session))
    given = {"weighs": True, "by_head": True, "value_weight": 0.5, **options}
    return kv_evict.ahead(session.ctx, seq, ids, n_new, layers, **given)


def likeness(session: Session, ids: Ids, n_new: int = N_NEW, seq: int = 0) -> Any:
    """Of the rows as they are read: ``likeness`` itself rounds new rows as the others are."""
    rows = (kv_evict.rows(session.ctx, seq, ids, values=values) for values in (False, True))
    keys, values = (cur / np.linalg.norm(cur, axis=-1, keepdims=True) for cur in rows)
    alike = (keys @ keys.swapaxes(2, 3) + 0.5 * values @ values.swapaxes(2, 3)) / 1.5
    before = np.tril(np.ones((ids.size, ids.size), np.bool_), -1)
    alike[:, :, ~before] = -1
    if (dead := kv_evict.get_dead(session.ctx, seq, ids)).any():
        alike = np.where(dead[:, None, None, :], -1, alike)
    return alike.max(axis=3)[:, :, -n_new:]


def close(expected: Any) -> Any:
    return pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


def logs(asked: Asked) -> list[Any]:
    return [pytest.approx(part, rel=1e-4, abs=1e-2) for part in (asked.prompt, asked.output)]


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_as_of_the_rows(tiny: Tiny, cache: dict[str, Any]) -> None:
    """Of every KV type, with and without flash attention, after per-head moves too."""
    rng = np.random.default_rng(3)
    with Session(tiny(n_layer=3), **cache) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(random_tokens(N_PROMPT), 0)
        held = Rows(session.ctx)
        held.note_decoded()
        held.evict(random_keep(held.held[:, :, :N_PROMPT], 40, 5, rng))
        asked = ask(session)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        others = rng.random((*held.held.shape[:2], ids.size)) < 0.3
        asked = asked.with_prompt(kv_evict.rows(session.ctx, 0, ids), others)
        kv_evict.ahead_prompt(session.ctx, 0, ids, others, every_layer(session))
        for i in range(3):
            session.decode(random_tokens(N_NEW, seed=i), N_PROMPT + i * N_NEW)
            _, ids, _ = kv_evict.cells(session.ctx, 0)
            weights, like = weigh(session, ids)
            keys = kv_evict.rows(session.ctx, 0, ids[-N_NEW:].copy())
            expected, asked = asked.weigh(keys)
            assert weights == close(expected)
            assert like == pytest.approx(likeness(session, ids), abs=TOLERANCE)
            assert list(kv_evict.ahead_get(session.ctx, 0, N_ASKED)) == logs(asked)
        assert weights.max() > 0.2 and like.max() > 0.1


def test_of_a_kv_head_the_most_of_its_query_heads(tiny: Tiny) -> None:
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(random_tokens(N_PROMPT), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        ask(session)
        by_head, none = weigh(session, ids, value_weight=None)
        ask(session)
        found, _ = weigh(session, ids, by_head=False)
        assert none is None
        groups = by_head.reshape(*found.shape[:2], -1, N_NEW)
        assert groups.shape[2] > 1
        assert np.array_equal(found, groups.max(axis=2))


def test_some_layers_only(tiny: Tiny) -> None:
    """The others get nothing, and their queries have gone through nothing."""
    with Session(tiny(n_layer=3)) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(random_tokens(N_PROMPT), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        ask(session)
        whole = weigh(session, ids)
        for wanted in ([1], [], [2, 0], [1]):
            ask(session)
            layers = np.isin(np.arange(3), wanted)
            kv_evict.ahead_prompt(session.ctx, 0, ids, nothing(session, ids), layers)
            prompt, output = kv_evict.ahead_get(session.ctx, 0, N_ASKED)
            assert np.isfinite(prompt).all(axis=(1, 2)).tolist() == layers.tolist()
            ask(session)
            weights, like = weigh(session, ids, layers=layers)
            output = kv_evict.ahead_get(session.ctx, 0, N_ASKED)[1]
            assert np.isfinite(output).all(axis=(1, 2)).tolist() == layers.tolist()
            assert np.array_equal(weights[layers], whole[0][layers])
            assert np.array_equal(like[layers], whole[1][layers])
            assert not weights[~layers].any() and (like[~layers] == -1).all()


@pytest.mark.parametrize("flash", [True, False])
def test_dead_rows_are_not_looked_at(tiny: Tiny, flash: bool) -> None:
    with Session(tiny(), kv="f32", flash=flash) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(random_tokens(N_PROMPT), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        without = weigh(session, ids, weighs=False)[1]
        dead = np.zeros((2, ids.size), np.bool_)
        dead[1, : N_PROMPT - 20] = True
        kv_evict.set_dead(session.ctx, 0, ids, dead)
        weights, found = weigh(session, ids, weighs=False)
        assert weights is None
        assert found == pytest.approx(likeness(session, ids), abs=TOLERANCE)
        assert np.array_equal(found[0], without[0]) and (found[1] < without[1]).any()


@pytest.mark.parametrize("flash", [True, False])
def test_two_sequences(tiny: Tiny, flash: bool) -> None:
    """Each by its own queries, among its own cells; what others' cells hold does not matter."""
    with Session(tiny(), n_ctx=1024, n_seq=2, flash=flash) as session:
        kv_evict.init(session.ctx, 8)
        for seq, n in ((0, N_PROMPT), (1, 600)):
            session.decode(random_tokens(n, seed=seq), 0, seq=seq)
        asked = [ask(session, seq) for seq in (0, 1)]
        for seq in (0, 1, 0):
            _, ids, _ = kv_evict.cells(session.ctx, seq)
            weights, like = weigh(session, ids, seq=seq)
            expected, asked[seq] = asked[seq].weigh(
                kv_evict.rows(session.ctx, seq, ids[-N_NEW:].copy())
            )
            assert weights == close(expected)
            assert like == pytest.approx(likeness(session, ids, seq=seq), abs=TOLERANCE)


@pytest.mark.parametrize("flash", [True, False])
def test_more_cells_than_a_block(tiny: Tiny, flash: bool) -> None:
    with Session(tiny(), n_ctx=1536, kv="f32", flash=flash) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(random_tokens(1400), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)
        asked = ask(session)
        kv_evict.ahead_prompt(session.ctx, 0, ids, nothing(session, ids), every_layer(session))
        asked = asked.with_prompt(kv_evict.rows(session.ctx, 0, ids))
        assert list(kv_evict.ahead_get(session.ctx, 0, N_ASKED)) == logs(asked)
        weights, like = weigh(session, ids, 64)
        assert weights == close(asked.weigh(kv_evict.rows(session.ctx, 0, ids[-64:].copy()))[0])
        assert like == pytest.approx(likeness(session, ids, 64), abs=TOLERANCE)


def test_what_was_gone_through_comes_back_as_it_was(tiny: Tiny) -> None:
    """Logarithms that are handed over again, infinite ones too."""
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(random_tokens(N_PROMPT), 0)
        asked = ask(session)
        prompt = np.random.default_rng(0).normal(size=asked.prompt.shape).astype(np.float32)
        prompt[0, 1] = -np.inf
        kv_evict.ahead_set(session.ctx, 0, asked.queries, prompt, asked.output)
        for got, expected in zip(
            kv_evict.ahead_get(session.ctx, 0, N_ASKED), (prompt, asked.output), strict=True
        ):
            assert np.array_equal(got, expected)


def test_what_can_not_be(tiny: Tiny) -> None:
    with Session(tiny()) as session:
        kv_evict.init(session.ctx, 8)
        session.decode(random_tokens(N_PROMPT), 0)
        _, ids, _ = kv_evict.cells(session.ctx, 0)

        def status(**given: Any) -> int:
            with pytest.raises(kv_evict.NativeError) as caught:
                weigh(session, ids, **given)
            return caught.value.status

        assert status() == QUERIES
        asked = ask(session)
        assert status(n_new=0) == status(n_new=ids.size + 1) == ARGUMENT
        assert status(value_weight=float("nan")) == status(value_weight=-1.0) == ARGUMENT
        with pytest.raises(ValueError, match="queries"):
            wrong = asked.queries[:1]
            kv_evict.ahead_set(session.ctx, 0, wrong, asked.prompt, asked.output)
        before = kv_evict.memory(session.ctx)["queries"]
        none = np.zeros((2, kv_evict.n_head(session.ctx), 0, 1), np.float16)
        kv_evict.ahead_set(session.ctx, 0, none, asked.prompt[:, :, :0], asked.output[:, :, :0])
        assert sum(kv_evict.memory(session.ctx)["queries"]) < sum(before)
        assert status() == QUERIES
