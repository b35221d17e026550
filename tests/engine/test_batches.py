"""llama.cpp's batches have any size, and what stays of a prompt does not depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scope_cpp.engine.cache.bounded import BoundedCache
from scope_cpp.engine.context import Context, ContextParams, Row
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native import kv_evict
from scope_cpp.policies import PrefillPolicy, View
from tests.conftest import Tiny
from tests.engine.drive import kept, make_cache, open_context, random_tokens
from tests.engine.invented import invent_attention, weights
from tests.engine.rows import engine, request
from tests.engine.talk import converse, holds, same, say, script

Int32 = npt.NDArray[np.int32]

# n_batch and n_ubatch: the smallest, odd ones, a physical batch that is larger, all at once
BATCHES = [(2048, 512), (1, 1), (7, 2), (16, 512)]

BUDGET, N_MORE = 64, 12
# around the capacity, and beyond twice of it
LENGTHS = [BUDGET - 1, BUDGET, BUDGET + 1, 140]

# prefill policies and options: derived sizes; pools that leave one cell; pools of one kind
PREFILLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "h2o": ("h2o", ()),
    "h2o, almost all": ("h2o", ("alpha1=40", "alpha2=8")),
    "snapkv": ("snapkv", ("prefill.window=8",)),
    "snapkv, window alone": ("snapkv", ("alpha1=0", "prefill.window=40")),
    "pyramidkv": ("pyramidkv", ("prefill.window=5",)),
    "pyramidinfer": ("pyramidinfer", ("prefill.window=8",)),
    "streaming-llm": ("streaming-llm", ()),
    "streaming-llm, first": ("streaming-llm", ("alpha1=47", "alpha2=1")),
    "streaming-llm, last": ("streaming-llm", ("alpha1=0", "alpha2=48")),
    "streaming-llm, as its authors": ("streaming-llm", ("alpha1=4",)),
}
DECODES = {"scope-slide": ("interval=3",), "h2o": ("interval=3",), "streaming-llm": ()}


@pytest.fixture(scope="module")
def contexts(tiny: Tiny) -> Iterator[list[Context]]:
    """One for each of `BATCHES`."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(open_context(tiny(), 256, n_batch=n_batch, n_ubatch=n_ubatch))
            for n_batch, n_ubatch in BATCHES
        ]


def cache_of(context: Context, n_prompt: int, prefill: str, decode: str) -> BoundedCache:
    name, chosen = PREFILLS[prefill]
    return make_cache(
        context,
        n_prompt,
        100,
        budget=BUDGET,
        policy=decode,
        prefill=name,
        options=(*chosen, *DECODES[decode]),
    )


def by_formula(policy: PrefillPolicy, shape: tuple[int, ...], n: int) -> list[list[set[int]]]:
    """What a resolved policy keeps of a prompt whose attention is known as a whole."""
    pos = np.broadcast_to(np.arange(n, dtype=np.int32), (*shape, n)).copy()
    scores = weights(pos, range(max(0, n - policy.n_queries(n)), n))
    chosen = []
    for layer in range(shape[0]):
        at = slice(layer, layer + 1)
        view = View(pos[at], scores[at], n, n, None, n, layer=layer, n_layers=shape[0])
        marks = policy.select(view, final=True)[0]
        chosen.append([set(np.flatnonzero(head)) for head in marks])
    return chosen


def held(cache: BoundedCache) -> list[list[set[int]]]:
    """Positions of each layer and head; those of dead rows are none."""
    return [[set(head[head >= 0]) for head in layer] for layer in cache.positions()]


def last_tokens(policy: Any) -> int:
    return int(policy.last())


@pytest.mark.parametrize("decode", DECODES)
@pytest.mark.parametrize("prefill", PREFILLS)
def test_what_stays_of_a_prompt(
    contexts: list[Context], monkeypatch: pytest.MonkeyPatch, prefill: str, decode: str
) -> None:
    """The formula on the whole prompt where the capacity holds it; the same for all batches."""
    invent_attention(monkeypatch)
    for n in LENGTHS:
        tokens = random_tokens(n + N_MORE)
        found = []
        for context in contexts:
            cache = cache_of(context, n, prefill, decode)
            cache.prefill(tokens[:n])
            policy = cache.prefill_policy
            read = held(cache)
            assert cache.stats.cells_peak <= cache.capacity == BUDGET
            assert kv_evict.n_used(context.ptr) == policy.cells(n)
            if n <= cache.capacity or policy.name == "streaming-llm":
                assert read == by_formula(policy, cache.ledger.pos.shape[:2], n)
            newest = set(range(max(0, n - last_tokens(policy)), n))
            assert all(newest <= head for layer in read for head in layer)
            for token in tokens[n:]:
                cache.decode(token)
            found.append((read, held(cache), cache.capacity))
            cache.clear()
        assert all(other == found[0] for other in found[1:])


def test_a_prompt_as_long_as_the_context(tiny: Tiny) -> None:
    """With a batch of as many tokens: it was one chunk, with no cell left beside it."""
    with open_context(tiny(), 256) as context:
        cache = make_cache(
            context, 2000, 20, budget=256, policy="scope-slide", prefill="streaming-llm"
        )
        cache.prefill(random_tokens(2000))
        first = cache.prefill_policy.alpha1
        assert first > 50
        expected = [*range(first), *range(2000 - (192 - first), 2000)]
        assert (kept(cache) == expected).all()


@pytest.mark.parametrize("prefill", ["h2o", "snapkv", "pyramidkv", "pyramidinfer"])
def test_the_attention_of_small_batches_is_recorded(tiny: Tiny, prefill: str) -> None:
    """With llama.cpp's own attention: no query is lost where a chunk takes several batches."""
    found = []
    for n_batch, n_ubatch in [(2048, 512), (16, 512), (8, 3), (1, 1)]:
        with open_context(
            tiny(), 256, "f32", n_batch=n_batch, n_ubatch=n_ubatch, flash_attn="off"
        ) as context:
            cache = make_cache(
                context, 300, 8, budget=220, policy="scope-slide", prefill=prefill, type_k="f32"
            )
            cache.prefill(random_tokens(300))
            found.append((np.sort(cache.positions(), axis=2), cache.ledger.scores.copy()))
    for positions, scores in found[1:]:
        assert np.array_equal(positions, found[0][0])
        assert np.allclose(scores, found[0][1], rtol=1e-3, atol=1e-5)


# conversations: thinned prompts, policies that rank them, going back


TURNS = ["a" * 40, "b" * 30, "c" * 50, "d" * 20]
TALKS: dict[str, dict[str, Any]] = {
    "prompts that a window thins": {"policy": "scope-slide", "prefill": "snapkv"},
    "prompts that sums thin": {"policy": "scope-slide", "prefill": "h2o"},
    "first and last tokens": {"policy": "scope-slide", "prefill": "streaming-llm"},
    "h2o": {"policy": "h2o"},
    "streaming-llm": {"policy": "streaming-llm"},
    "tova": {"policy": "tova"},
}


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("kind", TALKS)
def test_what_stays_of_a_conversation(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, kind: str, back: bool
) -> None:
    invent_attention(monkeypatch)
    found = []
    for n_batch, n_ubatch in BATCHES:
        script(monkeypatch, *["xyz" * 5] * (len(TURNS) + 2 * back))
        fields = {"n_batch": n_batch, "n_ubatch": n_ubatch, "n_predict": 20, **TALKS[kind]}
        with converse(tiny(), 128, **fields) as talk:
            for text in TURNS:
                say(talk, text)
            if back:
                talk.undo()
                talk.undo()
                say(talk, "e" * 60)
                say(talk, "f" * 30)
            assert talk.cache.n_past > talk.cache.capacity
            found.append(holds(talk))
    assert all(same(other, found[0]) for other in found[1:])


def test_a_turn_of_streaming_llm_keeps_the_first_tokens(tiny: Tiny) -> None:
    """A message that takes all cells was one chunk, for which all others were given up."""
    with converse(tiny(), 128, policy="streaming-llm", n_predict=5, n_batch=512) as talk:
        say(talk, "a" * 10)
        say(talk, "b" * 104)  # 121 tokens: all cells but those that come before the first message
        positions = kept(talk.cache)
        n_past = talk.cache.n_past
        assert n_past > 128
        (first,) = (pool.n_cells for pool in talk.pools() if pool.kind == "system")
        assert first > 4  # the sinks are among those that are held
        expected = [*range(first), *range(n_past - (positions.shape[2] - first), n_past)]
        assert (positions == expected).all()


# many rows in one context: a prompt is read in parts of other sizes


@pytest.mark.parametrize("sizes", [(4, 2), (64, 7), (2048, 512)], ids=str)
def test_what_stays_in_a_parallel_engine(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int]
) -> None:
    invent_attention(monkeypatch)
    dials = {"n_batch": sizes[0], "n_ubatch": sizes[1]}
    with Model.load(tiny()) as model, engine(model, 4, 512, **dials) as made:
        for name, (prefill, chosen) in PREFILLS.items():
            fields: dict[str, Any] = {"policy": "scope-slide", "prefill": prefill, **dials}
            options = (*chosen, *DECODES["scope-slide"])
            made.submit(
                request(random_tokens(150), 40, budget=BUDGET, options=options, **fields), name
            )
        read: dict[Any, Int32] = {}
        while made.busy:
            for event in made.step():
                assert event.error is None
                positions = made.positions(event.key)
                if positions is not None:
                    read.setdefault(event.key, np.sort(positions, axis=2))
    with open_context(tiny(), 256) as context:
        for name in PREFILLS:
            cache = cache_of(context, 150, name, "scope-slide")
            cache.prefill(random_tokens(150))
            assert np.array_equal(read[name], kept(cache)), name
            cache.clear()


# the context itself


@pytest.mark.parametrize("name", ["n_batch", "n_ubatch", "n_threads", "n_threads_batch"])
@pytest.mark.parametrize("value", [-1, 2**31, 2**40, 1.5, "8", None, True])
def test_numbers_that_llama_cpp_cannot_take_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} is .*: give a whole number within "):
        Settings(**{name: value})


@pytest.mark.parametrize("name", ["n_batch", "n_ubatch"])
def test_batches_of_no_token_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 0: give a whole number within 1 to"):
        Settings(**{name: 0})


def test_a_text_is_no_list_of_options() -> None:
    with pytest.raises(UsageError, match="options is 'recent=48': give a list of texts"):
        Settings(options="recent=48")  # type: ignore[arg-type]


def test_more_tokens_than_a_batch_holds(tiny: Tiny) -> None:
    tokens = random_tokens(50)
    with open_context(tiny(), 256) as context:
        context.decode(tokens, 0)
        expected = context.logits()
    with open_context(tiny(), 256, n_batch=7) as context:
        assert context.n_batch == 7
        context.decode(tokens, 0)
        assert kv_evict.n_used(context.ptr) == 50
        assert np.allclose(context.logits(), expected, atol=2e-2)
        rows = [Row(token, 50 + i, 0, True) for i, token in enumerate(tokens[:8])]
        with pytest.raises(ScopeError, match="8 tokens at once, a batch holds 7"):
            context.decode_rows(rows)
        with pytest.raises(ScopeError, match="8 tokens at once"):
            context.decode(tokens[:8], 50, all_logits=True)
        assert kv_evict.n_used(context.ptr) == 50
        context.decode_rows(rows[:7])
        assert kv_evict.n_used(context.ptr) == 57


@pytest.mark.parametrize("n_batch", [1, 7, 255, 256, 257, 10**6])
@pytest.mark.parametrize("n_ubatch", [1, 300, 10**6])
def test_batches_of_any_size(tiny: Tiny, n_batch: int, n_ubatch: int) -> None:
    """Also larger than the cells, and physical ones larger than logical ones."""
    params = ContextParams(100, n_batch=n_batch, n_ubatch=n_ubatch, n_threads=1)
    with Model.load(tiny()) as model, Context(model, params) as context:
        context.decode(random_tokens(100), 0)
        assert np.isfinite(context.logits()).all()
        assert kv_evict.n_used(context.ptr) == 100


def test_more_logits_than_the_context_has_outputs(tiny: Tiny) -> None:
    with Model.load(tiny()) as model, Context(model, ContextParams(256, n_threads=1)) as context:
        with pytest.raises(ScopeError, match="logits of 5 tokens of a batch are wanted"):
            context.decode(random_tokens(5), 0, all_logits=True)
        assert kv_evict.n_used(context.ptr) == 0
        context.decode(random_tokens(5), 0)
        assert kv_evict.n_used(context.ptr) == 5


def test_a_prompt_goes_through_llama_cpp_as_it_computes_it(tiny: Tiny) -> None:
    """So Ctrl-C waits for one physical batch at most; the logits are those of one call."""
    tokens, sizes = random_tokens(200), []
    with open_context(tiny(), 256, n_batch=256, n_ubatch=64) as context:
        was = context.decode_rows
        context.decode_rows = lambda rows: (sizes.append(len(rows)), was(rows))[1]  # type: ignore
        context.decode(tokens, 0)
        parts = context.logits_in_place().copy()
    with open_context(tiny(), 256, n_batch=256, n_ubatch=64) as context:
        context.decode_rows([Row(t, i, 0, i == 199) for i, t in enumerate(tokens)])
        assert np.array_equal(parts, context.logits_in_place())
    assert sizes == [64, 64, 64, 8]
