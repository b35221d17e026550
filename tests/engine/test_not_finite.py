"""Weights that are NaN, infinite, too large or 0: an error at the first logits that say nothing."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGUFReader

from scope_cpp.bench.row import Compute, Row
from scope_cpp.bench.stock import StockRow
from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.generate import generate
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError
from tests.conftest import Tiny
from tests.engine.drive import bounded, random_tokens
from tests.engine.rows import alone, drain, engine, request, run, tokens_of

SAID = (
    "the model computes (.* that are NaN or infinite|the same logit, 0, for every token): "
    "its file is damaged, or numbers overflow"
)
GREEDY = SamplingParams(temp=0, ignore_eos=True)
PROMPT = random_tokens(80)
BAD_TOKEN = 349  # the letter z, which is not in any other prompt here
GOOD = [token for token in random_tokens(200, seed=5) if token != BAD_TOKEN]

# tensor, which of its weights, and what they become
DAMAGES = {
    "all NaN": (".", slice(None), math.nan),
    "all infinite": (".", slice(None), math.inf),
    "all too large": (".", slice(None), 3e38),
    "all 0": (".", slice(None), 0.0),
    "one of Q": ("blk.0.attn_q.weight", 3, math.nan),
    "one of the last K": ("blk.1.attn_k.weight", 3, math.nan),
    "large K": ("blk.1.attn_k.weight", slice(None), 3e38),
    "one of V": ("blk.0.attn_v.weight", 3, math.inf),
    "one of the last layer": ("blk.1.ffn_down.weight", 7, math.nan),
    "one of the output": ("output.weight", 200, math.nan),
    "one infinite of the output": ("output.weight", 200, math.inf),
    "one infinite below 0": ("output.weight", 200, -math.inf),
}


def damaged(path: Path, to: Path, tensor: str, where: int | slice, value: float) -> Path:
    """Copy a model of float32 weights and overwrite some of them; "." stands for all tensors."""
    shutil.copy(path, to)
    for found in GGUFReader(to, "r+").tensors:
        if tensor in (found.name, "."):
            found.data.reshape(-1)[where] = value
            found.data.flush()
    return to


@pytest.fixture(params=DAMAGES)
def model(request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path) -> Iterator[Model]:
    with Model.load(damaged(tiny(), tmp_path / "bad.gguf", *DAMAGES[request.param])) as model:
        yield model


@pytest.fixture
def whole(tiny_arch: Tiny, arch: str) -> Path:
    """A model that reads all tokens."""
    return tiny_arch(arch=arch)


@pytest.fixture
def good(whole: Path) -> Iterator[Model]:
    with Model.load(whole) as model:
        yield model


@pytest.fixture
def one_bad_token(whole: Path, tmp_path: Path) -> Iterator[Model]:
    """The same model, but for one token that it can't read."""
    row = slice(BAD_TOKEN * 128, (BAD_TOKEN + 1) * 128)
    path = damaged(whole, tmp_path / "bad.gguf", "token_embd.weight", row, math.nan)
    with Model.load(path) as model:
        yield model


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"budget": 100},
        {"budget": 100, "policy": "h2o"},
        {"budget": 100, "policy": "r-kv", "flash_attn": "on"},
        {"budget": 50, "prefill": "snapkv"},
        {"budget": 50, "prefill": "h2o", "granularity": "cell"},
        {"budget": 100, "prefill": "pyramidkv"},
    ],
    ids=str,
)
def test_a_generation(model: Model, fields: dict[str, str]) -> None:
    """Before any policy chooses by such numbers, and without a warning of NumPy's."""
    settings = Settings(n_threads=1, n_threads_batch=1, **fields)  # type: ignore[arg-type]
    with warnings.catch_warnings(), pytest.raises(ScopeError, match=SAID):
        warnings.simplefilter("error", RuntimeWarning)
        generate(model, PROMPT, n_predict=60, settings=settings, warn=lambda line: None)


@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(grammar="root ::= [a-z]+"), SamplingParams(temp=0), SamplingParams(seed=1)],
    ids=["grammar", "greedy", "drawn"],
)
def test_every_way_to_sample(model: Model, sampling: SamplingParams) -> None:
    with pytest.raises(ScopeError, match=SAID):
        generate(model, PROMPT, n_predict=3, sampling=sampling)


def test_likelihoods(model: Model) -> None:
    """An evaluation reads the logits themselves."""
    with bounded(model.path, len(PROMPT), 9, 300) as cache:
        cache.prefill(PROMPT)
        with pytest.raises(ScopeError, match=SAID):
            cache.context.logits()


def test_a_benchmark_of_the_full_cache(model: Model) -> None:
    compute = Compute(str(model.path), n_threads=1)
    row = StockRow(Row("gen", "full", "on", 64), compute)
    row.prepare()
    row.step()
    row.restore()
    with pytest.raises(ScopeError, match=SAID):
        row.state()


def test_finite_numbers_are_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    """Large logits are logits: their squares and sums would not be finite."""
    path = damaged(tiny(), tmp_path / "large.gguf", "output.weight", slice(0, None, 3), 1e30)
    with Model.load(path) as model:
        text, last = generate(model, PROMPT, n_predict=5, sampling=GREEDY)
    assert last.stats.n_generated == 5


# one bad token

# plain attention, a window, recurrent states beside attention and without it, a latent cache
every_memory = pytest.mark.parametrize(
    "arch", ["smollm3", "gemma3", "qwen35", "lfm2", "mamba", "deepseek2"]
)


@every_memory
@pytest.mark.parametrize(("n_parallel", "flash_attn"), [(1, "off"), (3, "auto"), (3, "off")])
def test_other_rows_go_on(
    one_bad_token: Model, good: Model, n_parallel: int, flash_attn: str
) -> None:
    """Beside it, and after it in the cells that it had; they write what a whole model writes."""
    bad = [*GOOD[:30], BAD_TOKEN, *GOOD[30:90]]
    prompts = [GOOD[:40], bad, GOOD[40:50], GOOD[7:60], bad, GOOD[3:9]]
    fields = {"flash_attn": flash_attn, "budget": 200, "logit_bias": {BAD_TOKEN: -math.inf}}
    rows = [request(prompt, 30, **fields) for prompt in prompts]
    with engine(one_bad_token, n_parallel, 1200, flash_attn=flash_attn) as made:
        said = run(made, rows)
    for row, events in zip(rows, said, strict=True):
        if BAD_TOKEN in row.prompt:
            assert len(events) == 1 and events[0].error is not None
            assert "NaN or infinite" in str(events[0].error)
        else:
            assert [event.error for event in events] == [None] * 30
            assert tokens_of(events) == tokens_of(alone(good, row))


@pytest.mark.parametrize(("arch", "n_parallel"), [("smollm3", 2), ("gemma3", 2), ("qwen35", 4)])
def test_a_row_that_writes_it_ends_alone(
    one_bad_token: Model, good: Model, n_parallel: int
) -> None:
    """The others say each of their tokens once, drawn ones too, and evict as they would alone."""
    free = {"logit_bias": {BAD_TOKEN: -math.inf}}
    forced = request(GOOD[5:60], 40, logit_bias={BAD_TOKEN: 1e6})
    rows = [
        request(GOOD[:40], 60, budget=60, policy="h2o", **free),
        request(GOOD[2:30], 60, temp=0.8, seed=3, **free),
        request(GOOD[:20], 40, grammar="root ::= [a-y]+"),
    ]
    with engine(one_bad_token, n_parallel, 500) as made:
        for i, row in enumerate(rows):
            made.submit(row, i)
        before = [made.step() for _ in range(25)]
        made.submit(forced, "forced")
        said = drain(made)
        evicted = made.n_evicted
    for i, row in enumerate(rows):
        events = [event for step in before for event in step if event.key == i] + said[i]
        assert [event.error for event in events] == [None] * len(events)
        expected = alone(good, row)
        assert tokens_of(events) == tokens_of(expected)
        assert events[-1].response is not None
        assert events[-1].response.stats.evicted == expected[-1].stats.evicted
        assert events[-1].response.stats.n_generated == expected[-1].stats.n_generated
    first, error = said["forced"]
    assert first.response is not None and first.response.token == BAD_TOKEN
    assert "NaN or infinite" in str(error.error)
    assert evicted >= 60 + 40 - 60 - 1


@pytest.mark.parametrize(
    ("arch", "policy"),
    [
        *(("smollm3", policy) for policy in ("scope-foresight", "h2o", "full")),
        *((arch, None) for arch in ("gemma3", "qwen35")),
    ],
)
def test_a_conversation_goes_on(one_bad_token: Model, policy: str | None) -> None:
    """The turn is taken back, and the next one has nothing of it."""
    model = one_bad_token
    bad = "z"
    assert model.tokenize(f"a{bad}")[-1] == BAD_TOKEN

    def answers(*texts: str) -> list[str]:
        settings = Settings(budget=400, policy=policy, n_threads=1, n_threads_batch=1)
        sampling = SamplingParams(temp=0, logit_bias={BAD_TOKEN: -math.inf})
        told = []
        with Conversation(
            model, settings=settings, sampling=sampling, n_predict=20, warn=lambda line: None
        ) as talk:
            for text in texts:
                if bad in text:
                    before = talk.messages
                    with pytest.raises(ScopeError, match=SAID):
                        list(talk.ask(text))
                    assert talk.messages == before
                else:
                    told.append("".join(response.text for response in talk.ask(text)))
        return told

    assert answers("the cat", f"and a long text {bad} with more of it", "an") == answers(
        "the cat", "an"
    )


@pytest.mark.parametrize("arch", ["smollm3"])
def test_a_bad_token_beyond_the_prompt(one_bad_token: Model) -> None:
    """The text so far is there; then it ends with the error."""
    forced = SamplingParams(temp=0, logit_bias={BAD_TOKEN: 1e6})
    with pytest.raises(ScopeError, match=SAID):
        generate(one_bad_token, GOOD[:20], n_predict=3, sampling=forced)
