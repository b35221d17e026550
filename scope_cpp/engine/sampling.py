"""Choice of the next token: llama.cpp's samplers, in llama.cpp's default order."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine import constraint
from scope_cpp.engine.constraint import Constraint
from scope_cpp.engine.context import Context
from scope_cpp.engine.model import Model
from scope_cpp.engine.samplers import candidates, owned, token_array
from scope_cpp.engine.sampling_params import RANDOM_SEED, RANGES, SamplingParams
from scope_cpp.errors import ScopeError, UsageError, Warn, ignore
from scope_cpp.native.library import llama_cpp
from scope_cpp.native.lifetime import Closable

if TYPE_CHECKING:
    from scope_cpp.engine.schema.matcher import CompiledSchema

# Below, differences of logits are lost in their rounding, and quotients could be infinite
_COLDEST = 1e-6


@dataclass(frozen=True)
class Alternative:
    """A token and how likely the model took it to be.

    Attributes
    ----------
    token, text
        Its id and its bytes.
    logprob
        Natural logarithm of its probability.
    """

    token: int
    text: bytes
    logprob: float


def alternatives(
    model: Model, logits: NDArray[np.float32], token: int, n: int
) -> tuple[Alternative, ...]:
    """Return `token`, then the `n` most likely ones, the most likely first.

    Parameters
    ----------
    model
    logits
        float32 (n_vocab,): the model's own, before bias, penalties and temperature.
    token, n
    """
    shifted = logits.astype(np.float64) - float(logits.max())
    logprobs = shifted - np.log(np.exp(shifted).sum())
    likely = np.argpartition(-logprobs, n - 1)[:n] if 0 < n < logits.size else np.arange(n)
    ordered = likely[np.lexsort((likely, -logprobs[likely]))]
    return tuple(
        Alternative(i, model.token_to_piece(i, special=True), float(logprobs[i]))
        for i in (token, *map(int, ordered))
    )


# SamplingParams field -> key in a GGUF
_MODEL_DEFAULTS = {
    "temp": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_last_n": "penalty_last_n",
    "repeat_penalty": "penalty_repeat",
}


def model_defaults(model: Model, warn: Warn = ignore) -> dict[str, Any]:
    """Return the sampling values that the model's file recommends (``general.sampling.*``).

    Values that can't be are left out; `warn` is called with one line that names them.
    """
    found, wrong = {}, []
    for name, key in _MODEL_DEFAULTS.items():
        text = model.metadata(f"general.sampling.{key}")
        if text is None:
            continue
        try:
            found[name] = RANGES[name].parse(text)
        except ValueError:
            wrong.append(f"general.sampling.{key} is {text[:40]!r}, not {RANGES[name].wanted}")
    if wrong:
        warn(f"{model.path.name}: {'; '.join(wrong)}: passed over")
    return found


def recommended(model: Model, warn: Warn = ignore) -> SamplingParams:
    """Return llama.cpp's defaults with those of the model's file over them."""
    return SamplingParams(**model_defaults(model, warn))


class Sampler(Closable):
    """Chooses tokens from the logits of a context.

    The chain is logit bias, penalties, top-k, typical, top-p, min-p, temperature, and a draw with
    the seed; for ``temp <= 0`` bias, penalties, largest logit. llama.cpp's further default
    samplers (DRY, top-n-sigma, XTC) change nothing at their default values and are left out.
    A grammar is kept outside of the chain as llama.cpp's tools do: a token is drawn first, and
    only if the grammar rejects it is another drawn among those that it allows.

    Parameters
    ----------
    model : Model
    params : SamplingParams
    schema : CompiledSchema, optional
        What the JSON schema of `params` was compiled to, if it was already.

    Raises
    ------
    UsageError
        For a bad grammar or JSON schema, or a biased token outside of the vocabulary.
    """

    def __init__(
        self, model: Model, params: SamplingParams, schema: CompiledSchema | None = None
    ) -> None:
        super().__init__("the sampler", "make another one", model)
        self.params = params
        self.seed = draw_seed(params.seed)
        bias = _logit_bias(model, params)
        if schema is not None:
            self._constraint: Constraint | None = schema.begin()
        else:
            self._constraint = constraint.begin(model, params.grammar, params.json_schema)
        self._pointer = owned(_build_chain(model.n_vocab, params, bias, self.seed))

    def _release(self) -> None:
        self._constraint = None

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """Let the penalties see the prompt; the grammar does not, which it does not describe."""
        chain, n = self.ptr, self.params.penalised
        for token in tokens[-n:] if n else ():
            llama_cpp.llama_sampler_accept(chain, token)

    def sample(self, context: Context, idx: int = -1) -> int:
        """Choose a token and take note of it (nothing else needs to be accepted).

        Parameters
        ----------
        context : Context
        idx : int
            Which of the last batch's tokens; it must have been decoded with logits. -1: the last.

        Raises
        ------
        ScopeError
            When the logits are not finite, or the grammar or schema allows no token of the
            vocabulary.
        """
        chain, ctx = self.ptr, context.ptr
        with ctx.lock, chain.lock:
            logits = context.logits_in_place(idx)  # refuses what is no number
            if self.constrained:
                return self.choose(logits)
            return int(llama_cpp.llama_sampler_sample(chain, ctx, idx))

    @property
    def constrained(self) -> bool:
        """Whether the output is kept to a grammar or a schema; a token may take long then."""
        return self._constraint is not None

    def choose(self, logits: NDArray[np.float32]) -> int:
        """As `sample`, for an output that is `constrained`; any thread may call it.

        Parameters
        ----------
        logits
            float32 (n_vocab,), finite.
        """
        kept, chain = self._constraint, self.ptr
        assert kept is not None
        with chain.lock:
            token = _constrained(logits, chain, kept)
            kept.accept(token)
            llama_cpp.llama_sampler_accept(chain, token)
        return token

    def reset(self) -> None:
        """Begin anew: forget all tokens, and start the seed and the grammar over."""
        kept, chain = self._constraint, self.ptr
        llama_cpp.llama_sampler_reset(chain)
        if kept is not None:
            kept.reset()


def _constrained(logits: NDArray[np.float32], chain: Any, kept: Constraint) -> int:
    token = _draw(candidates(logits), chain)
    if kept.allows(token):
        return token
    allowed = kept.allowed()
    if allowed.any():
        token = _draw(candidates(np.where(allowed, logits, np.float32(-np.inf))), chain)
        if allowed[token]:
            return token
    raise ScopeError(f"the {kept.name} allows no token of this vocabulary here")


def _draw(tokens: NDArray[Any], chain: Any) -> int:
    array = token_array(tokens)
    llama_cpp.llama_sampler_apply(chain, array)
    return int(tokens["id"][array.selected])


def draw_seed(seed: int) -> int:
    """Return `seed`, or a random one if it stands for that."""
    return secrets.randbelow(RANDOM_SEED) if seed in (-1, RANDOM_SEED) else seed


def answer_seed(seed: int, index: int, attempt: int) -> int:
    """Seed of an answer of a conversation: of its index, written anew for the `attempt`-th time."""
    if index == attempt == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}/{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % RANDOM_SEED


def _logit_bias(model: Model, params: SamplingParams) -> dict[int, float]:
    """Biases of the user, of ``ignore_eos``, and of tokens that the model's file suppresses."""
    for token in params.logit_bias:
        if token >= model.n_vocab:
            raise UsageError(
                f"logit_bias names token {token}: the vocabulary has 0 to {model.n_vocab - 1}"
            )
    ended = model.eog_tokens if params.ignore_eos else ()
    forbidden = dict.fromkeys((*model.suppressed_tokens, *ended), -math.inf)
    return {**params.logit_bias, **forbidden}


def _build_chain(n_vocab: int, params: SamplingParams, bias: dict[int, float], seed: int) -> Any:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    samplers = [_bias_sampler(n_vocab, bias), _penalties(n_vocab, params)]
    if params.temp < _COLDEST:
        samplers.append(llama_cpp.llama_sampler_init_greedy())
    else:
        samplers += [
            llama_cpp.llama_sampler_init_top_k(params.top_k),
            llama_cpp.llama_sampler_init_typical(params.typical_p, 0),
            llama_cpp.llama_sampler_init_top_p(params.top_p, 0),
            llama_cpp.llama_sampler_init_min_p(params.min_p, 0),
            llama_cpp.llama_sampler_init_temp(params.temp),
            llama_cpp.llama_sampler_init_dist(seed),
        ]
    for sampler in samplers:
        llama_cpp.llama_sampler_chain_add(chain, sampler)
    return chain


def _bias_sampler(n_vocab: int, bias: dict[int, float]) -> Any:
    array = (llama_cpp.llama_logit_bias * len(bias))()
    for slot, (token, value) in zip(array, bias.items(), strict=True):
        slot.token, slot.bias = token, value
    return llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(bias), array)


def _penalties(n_vocab: int, params: SamplingParams) -> Any:
    return llama_cpp.llama_sampler_init_penalties(
        n_vocab,
        params.penalised,
        params.repeat_penalty,
        params.frequency_penalty,
        params.presence_penalty,
    )
