from __future__ import annotations

import ctypes
import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scope_cpp.engine.context import Context
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import RANDOM_SEED, Sampler, SamplingParams, model_defaults
from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.native.library import llama_cpp
from tests.text.conftest import restart

PROMPT = "Once upon a time"


def generate(context: Context, n: int = 24, prompt: str = PROMPT, **params: Any) -> list[int]:
    """Tokens that follow `prompt`, in an emptied context."""
    restart(context)
    model = context.model
    tokens = model.tokenize(prompt)
    context.decode(tokens, 0)
    out: list[int] = []
    with Sampler(model, SamplingParams(**params)) as sampler:
        sampler.accept_prompt(tokens)
        for pos in range(len(tokens), len(tokens) + n):
            token = sampler.sample(context)
            if model.is_eog(token):
                break
            out.append(token)
            context.decode([token], pos)
    return out


def text(context: Context, **params: Any) -> str:
    return context.model.detokenize(generate(context, 60, **params))


def test_defaults_are_those_of_llama_cpp() -> None:
    params = SamplingParams()
    assert (params.temp, params.top_k, params.top_p, params.min_p) == (0.8, 40, 0.95, 0.05)
    assert (params.repeat_penalty, params.repeat_last_n, params.typical_p) == (1.0, 64, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temp", math.nan),
        ("temp", math.inf),
        ("temp", "hot"),
        ("temp", None),
        ("temp", -0.1),
        ("temp", 101),
        ("top_p", -0.1),
        ("top_p", 1.01),
        ("min_p", 2),
        ("typical_p", -1),
        ("top_k", 1.5),
        ("top_k", -2),
        ("top_k", 2**40),
        ("top_k", True),
        ("repeat_penalty", 0),
        ("repeat_penalty", -1.0),
        ("repeat_last_n", -2),
        ("repeat_last_n", 2**31 - 1),
        ("presence_penalty", math.inf),
        ("frequency_penalty", math.nan),
        ("seed", -2),
        ("seed", 2**32),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"3": 1.0}),
        ("logit_bias", {3: math.inf}),
        ("logit_bias", {3: math.nan}),
        ("logit_bias", {3: "much"}),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name) as err:
        SamplingParams(**{name: value})
    assert "\n" not in str(err.value)


@pytest.mark.parametrize("temp", [1e-7, 1e-40, 5e-324])
def test_a_temperature_too_small_to_divide_by_is_greedy(ctx: Context, temp: float) -> None:
    assert generate(ctx, temp=temp) == generate(ctx, temp=0)


@pytest.mark.parametrize(
    "extreme",
    [
        {"temp": 1e-6},
        {"temp": 100},
        {"repeat_penalty": 0.01},
        {"repeat_penalty": 100},
        {"presence_penalty": -100, "frequency_penalty": -100, "temp": 1e-6},
        {"presence_penalty": 100, "frequency_penalty": 100, "repeat_last_n": -1},
        {"top_p": 0},
        {"typical_p": 0},
        {"min_p": 1},
        {"logit_bias": {5: 1e9, 6: -1e9}, "temp": 1e-6},
    ],
    ids=str,
)
def test_the_ends_of_the_ranges_give_tokens(ctx: Context, extreme: dict[str, Any]) -> None:
    """Nothing overflows: equal draws give equal tokens, all of the vocabulary."""
    tokens = generate(ctx, 40, seed=3, **extreme)
    assert tokens == generate(ctx, 40, seed=3, **extreme)
    assert all(0 <= token < ctx.model.n_vocab for token in tokens)
    if "logit_bias" in extreme:
        assert set(tokens) == {5}


def test_penalties_of_the_whole_text(ctx: Context) -> None:
    """-1 looks back as far as the text goes, as llama.cpp's."""
    strong: dict[str, Any] = {"temp": 0, "repeat_penalty": 1.5, "presence_penalty": 3.0}
    whole = generate(ctx, 90, repeat_last_n=-1, **strong)
    assert whole == generate(ctx, 90, repeat_last_n=4000, **strong)
    assert whole != generate(ctx, 90, repeat_last_n=8, **strong)


def test_grammar_and_schema_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="choose one"):
        SamplingParams(grammar="root ::= [a]", json_schema="{}")


def test_greedy_is_the_largest_logit(ctx: Context) -> None:
    tokens = generate(ctx, temp=0)
    restart(ctx)
    prompt = ctx.model.tokenize(PROMPT)
    ctx.decode(prompt + tokens, 0, all_logits=True)
    best = [int(np.argmax(ctx.logits(len(prompt) - 1 + i))) for i in range(len(tokens))]
    assert tokens == best


def test_a_seed_gives_the_same_tokens_again(ctx: Context) -> None:
    hot = {"temp": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert generate(ctx, seed=5, **hot) == generate(ctx, seed=5, **hot)
    assert generate(ctx, seed=5, **hot) != generate(ctx, seed=6, **hot)


OPEN = {"temp": 1.5, "top_k": 0, "typical_p": 1.0, "top_p": 1.0, "min_p": 0.0}
PENALTIES = {"repeat_penalty": 1.3, "frequency_penalty": 0.1, "presence_penalty": 0.2}


def stock_chain(n_vocab: int, seed: int, params: SamplingParams) -> Any:
    """The default chain of llama.cpp's tools, built by the bindings alone."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for sampler in (
        llama_cpp.llama_sampler_init_penalties(
            n_vocab,
            params.repeat_last_n,
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        ),
        llama_cpp.llama_sampler_init_top_n_sigma(-1.0),
        llama_cpp.llama_sampler_init_top_k(params.top_k),
        llama_cpp.llama_sampler_init_typical(params.typical_p, 0),
        llama_cpp.llama_sampler_init_top_p(params.top_p, 0),
        llama_cpp.llama_sampler_init_min_p(params.min_p, 0),
        llama_cpp.llama_sampler_init_xtc(0.0, 0.1, 0, seed),
        llama_cpp.llama_sampler_init_temp_ext(params.temp, 0.0, 1.0),
        llama_cpp.llama_sampler_init_dist(seed),
    ):
        llama_cpp.llama_sampler_chain_add(chain, sampler)
    return chain


def stock_tokens(context: Context, n: int, seed: int, params: SamplingParams) -> list[int]:
    restart(context)
    prompt = context.model.tokenize(PROMPT)
    context.decode(prompt, 0)
    chain, out = stock_chain(context.model.n_vocab, seed, params), []
    for token in prompt:
        llama_cpp.llama_sampler_accept(chain, token)
    for pos in range(len(prompt), len(prompt) + n):
        out.append(llama_cpp.llama_sampler_sample(chain, context.ptr, -1))
        context.decode([out[-1]], pos)
    llama_cpp.llama_sampler_free(chain)
    return out


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "params",
    [
        {},
        OPEN,
        OPEN | PENALTIES,
        OPEN | PENALTIES | {"repeat_last_n": 3},
        OPEN | {"top_k": 3},
        OPEN | {"typical_p": 0.5},
        OPEN | {"top_p": 0.5},
        OPEN | {"min_p": 0.2},
        OPEN | {"top_k": 30, "typical_p": 0.8, "top_p": 0.8, "min_p": 0.02} | PENALTIES,
    ],
)
def test_the_chain_draws_as_llama_cpp_does(ctx: Context, seed: int, params: dict[str, Any]) -> None:
    ours = generate(ctx, seed=seed, **params)
    assert ours == stock_tokens(ctx, len(ours), seed, SamplingParams(**params))
    assert len(ours) > 10


@pytest.mark.parametrize("seed", [-1, RANDOM_SEED])
def test_a_drawn_seed_is_reported_and_gives_the_same_tokens(ctx: Context, seed: int) -> None:
    hot = {"temp": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    prompt = ctx.model.tokenize(PROMPT)
    ctx.decode(prompt, 0)
    with Sampler(ctx.model, SamplingParams(seed=seed, **hot)) as sampler:
        drawn = sampler.seed
        first = [sampler.sample(ctx) for _ in range(10)]
    assert drawn not in (-1, RANDOM_SEED)
    with Sampler(ctx.model, SamplingParams(seed=drawn, **hot)) as sampler:
        assert [sampler.sample(ctx) for _ in range(10)] == first


def test_drawn_seeds_differ(model: Model) -> None:
    seeds = set()
    for _ in range(5):
        with Sampler(model, SamplingParams()) as sampler:
            seeds.add(sampler.seed)
    assert len(seeds) > 1


def test_reset_begins_anew(ctx: Context) -> None:
    ctx.decode(ctx.model.tokenize(PROMPT), 0)
    params = SamplingParams(
        seed=9, temp=3.0, min_p=0.0, repeat_penalty=1.5, grammar="root ::= [a-z]+"
    )
    with Sampler(ctx.model, params) as sampler:
        first = [sampler.sample(ctx) for _ in range(10)]
        sampler.reset()
        assert [sampler.sample(ctx) for _ in range(10)] == first


def penalised(
    logits: NDArray[np.float32], tokens: list[int], repeat: float, freq: float, present: float
) -> NDArray[np.float64]:
    """Logits after llama.cpp's penalties, by their formulas."""
    out = logits.astype(np.float64)
    for token in set(tokens):
        out[token] = out[token] * repeat if out[token] <= 0 else out[token] / repeat
        out[token] -= tokens.count(token) * freq + present
    return out


@pytest.mark.parametrize("last_n", [0, 1, 64])
def test_penalties_see_the_last_tokens_of_the_prompt(ctx: Context, last_n: int) -> None:
    ctx.decode(ctx.model.tokenize(PROMPT), 0)
    logits = ctx.logits()
    best, second = (int(t) for t in np.argsort(-logits)[:2])
    history = [second, second, best]
    strength = {"repeat_penalty": 3.0, "frequency_penalty": 2.0, "presence_penalty": 1.0}
    params = SamplingParams(temp=0, repeat_last_n=last_n, **strength)
    with Sampler(ctx.model, params) as sampler:
        sampler.accept_prompt(history)
        chosen = sampler.sample(ctx)
    seen = history[-last_n:] if last_n else []
    assert chosen == int(np.argmax(penalised(logits, seen, *strength.values())))
    # what was penalised shows: none, the best token, or both
    assert (chosen == best, chosen == second) == {
        0: (True, False),
        1: (False, True),
        64: (False, False),
    }[last_n]


@pytest.mark.parametrize("grammar", [None, "root ::= .*"])
def test_a_sampled_token_is_accepted_exactly_once(ctx: Context, grammar: str | None) -> None:
    ctx.decode(ctx.model.tokenize(PROMPT), 0)
    logits = ctx.logits()
    order = np.argsort(-logits)
    lead = float(logits[order[0]] - logits[order[1]])
    # one acceptance does not yet cost the best token its place, two would
    params = SamplingParams(temp=0, frequency_penalty=0.75 * lead, grammar=grammar)
    with Sampler(ctx.model, params) as sampler:
        drawn = [sampler.sample(ctx) for _ in range(3)]
    assert drawn == [order[0], order[0], order[1]]


def test_logit_bias(ctx: Context) -> None:
    ctx.decode(ctx.model.tokenize(PROMPT), 0)
    first, second = (int(t) for t in np.argsort(-ctx.logits())[:2])

    def choose(bias: dict[int, float]) -> int:
        with Sampler(ctx.model, SamplingParams(temp=0, logit_bias=bias)) as sampler:
            return sampler.sample(ctx)

    assert choose({}) == first
    assert choose({first: -math.inf}) == second
    assert choose({7: 1000.0}) == 7


def test_logit_bias_outside_of_the_vocabulary(model: Model) -> None:
    with pytest.raises(UsageError, match=f"0 to {model.n_vocab - 1}"):
        Sampler(model, SamplingParams(logit_bias={model.n_vocab: 1.0}))


def test_ignore_eos(ctx: Context) -> None:
    wanted = {2: 1000.0}
    assert generate(ctx, temp=0, logit_bias=wanted) == []
    assert len(generate(ctx, 5, temp=0, logit_bias=wanted, ignore_eos=True)) == 5


def test_tokens_that_the_file_suppresses(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    best = generate(ctx, 1, temp=0)[0]
    monkeypatch.setattr(Model, "suppressed_tokens", (best,))
    assert generate(ctx, 1, temp=0)[0] != best


@pytest.mark.parametrize("temp", [0.0, 0.8, 3.0])
def test_a_grammar_is_kept_to_and_ends(ctx: Context, temp: float) -> None:
    assert text(ctx, grammar='root ::= "yes" | "no"', temp=temp, seed=1) in ("yes", "no")


def test_a_grammar_is_kept_to_by_a_trained_model(stories_ctx: Context) -> None:
    grammar = 'root ::= " " name " was " ("happy" | "sad") "."\nname ::= "Tom" | "Lily"'
    assert text(stories_ctx, grammar=grammar, seed=3).strip() in {
        f"{name} was {mood}." for name in ("Tom", "Lily") for mood in ("happy", "sad")
    }


def test_a_grammar_allows_characters_of_many_tokens(ctx: Context) -> None:
    assert text(ctx, grammar='root ::= "日本€"', temp=0) == "日本€"


@pytest.mark.parametrize("temp", [0.0, 1.5])
def test_a_grammar_that_agrees_changes_nothing(ctx: Context, temp: float) -> None:
    free = generate(ctx, temp=temp, seed=4)
    assert generate(ctx, temp=temp, seed=4, grammar="root ::= .*") == free


def test_the_grammar_does_not_see_the_prompt_but_the_penalties_do(ctx: Context) -> None:
    # accepting PROMPT into this grammar would abort the process
    params = {"grammar": "root ::= [0-9]+", "repeat_penalty": 1.3, "temp": 0.0}
    assert text(ctx, **params).isdigit()


def test_json_schema(stories_ctx: Context) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Tom", "Lily"]}, "happy": {"type": "boolean"}},
        "required": ["name", "happy"],
    }
    answer = json.loads(text(stories_ctx, json_schema=json.dumps(schema), seed=2))
    assert answer["name"] in ("Tom", "Lily")
    assert isinstance(answer["happy"], bool)


@pytest.mark.parametrize(
    ("grammar", "cause"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("root", "expecting ::="),
        ('root ::= "a', "unexpected end"),
        ('root ::= "a" missing', "missing"),
        ('item ::= "a"', "root"),
        ('root ::= root "a"', "left recursion"),
        ('root ::= b root\nb ::= c\nc ::= ""', "left recursion, root"),
        ('root ::= b root "x" | "y"\nb ::= c\nc ::= "z"?', "left recursion, root"),
        (r'root ::= "\xZZ"', "hex"),
        ('root ::= "a"{9,', "expecting"),
        ('root ::= "a"{9999999}', "repetitions"),
        ("root ::= <no-such-token>", "no-such-token"),
        ('root ::= "a\0"', "NUL"),
        ("root ::= " + "(" * 100_000, "nested"),
    ],
)
def test_a_bad_grammar_is_one_line(
    model: Model, capfd: pytest.CaptureFixture[str], grammar: str, cause: str
) -> None:
    with pytest.raises(UsageError, match=cause) as err:
        Sampler(model, SamplingParams(grammar=grammar))
    assert str(err.value).startswith("bad grammar: ")
    assert "\n" not in str(err.value)
    assert capfd.readouterr().err == ""


def test_parentheses_in_literals_do_not_nest(stories_ctx: Context) -> None:
    grammar = "root ::= " + " ".join(['"("', "[(]", r'"\"("'] * 100) + " # " + "(" * 300
    written = text(stories_ctx, grammar=grammar)
    assert len(written) > 30 and ('(("(' * 100).startswith(written)


@pytest.mark.parametrize(
    "schema",
    ["", "{", "[1]", "3", '{"type": "nonsense"}', '{"$ref": "#/nowhere"}']
    + ['{"$ref": "https://example.com/schema.json"}', '{"type": "string", "pattern": "("}'],
)
def test_a_bad_json_schema_is_one_line(model: Model, schema: str) -> None:
    with pytest.raises(UsageError) as err:
        Sampler(model, SamplingParams(json_schema=schema))
    assert "bad JSON schema" in str(err.value)
    assert "\n" not in str(err.value)


def test_a_dead_end_of_the_grammar_is_an_error(ctx: Context) -> None:
    with pytest.raises(ScopeError, match="grammar allows no token"):
        generate(ctx, grammar="root ::= <[99999]>")


def test_a_bias_against_all_that_the_grammar_allows_is_an_error(ctx: Context) -> None:
    (token,) = ctx.model.tokenize("a", add_special=False)
    byte = 3 + ord("a")  # the byte token of the same character
    bias = {token: -math.inf, byte: -math.inf}
    with pytest.raises(ScopeError, match="grammar allows no token"):
        generate(ctx, grammar='root ::= "a"', logit_bias=bias)


def test_a_grammar_needs_a_token_to_end_with(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "has_eog", False)
    with pytest.raises(UsageError, match="end token"):
        Sampler(model, SamplingParams(grammar="root ::= [a]"))


def test_defaults_of_the_model_file(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    assert model_defaults(model, told.append) == {}
    file = {
        "general.sampling.temp": "0.600000",
        "general.sampling.top_k": "20.000000",
        "general.sampling.penalty_last_n": "not a number",
    }
    monkeypatch.setattr(Model, "metadata", lambda self, key: file.get(key))
    assert told == []
    assert model_defaults(model, told.append) == {"temp": 0.6, "top_k": 20}
    assert told == [
        f"{model.path.name}: general.sampling.penalty_last_n is 'not a number', not a whole number "
        "within -1 to 1048576: passed over"
    ]


@pytest.mark.parametrize(("grammar", "n_native"), [(None, 1), ("root ::= [a]", 2)])
def test_native_samplers_are_freed_once(
    model: Model, monkeypatch: pytest.MonkeyPatch, grammar: str | None, n_native: int
) -> None:
    freed: list[int] = []
    free = llama_cpp.llama_sampler_free

    def counted(pointer: Any) -> None:
        freed.append(ctypes.addressof(pointer.contents))
        free(pointer)

    monkeypatch.setattr(llama_cpp, "llama_sampler_free", counted)
    with Sampler(model, SamplingParams(grammar=grammar)) as sampler:
        assert freed == []
    sampler.close()
    assert len(freed) == len(set(freed)) == n_native
