"""Keeps an output to a GBNF grammar, with llama.cpp's sampler."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine import logs
from scope_cpp.engine.gbnf import fault
from scope_cpp.engine.model import Model
from scope_cpp.engine.samplers import candidates, owned, token_array
from scope_cpp.errors import UsageError
from scope_cpp.native.library import llama_cpp

# llama.cpp's parser is recursive: deeper nesting could exhaust the C stack
_MAX_NESTING = 100

# literals, character classes and comments: parentheses there do not nest
_OPAQUE = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#.*')


class GrammarConstraint:
    """One output that is being written to a GBNF grammar, see `Constraint`.

    Parameters
    ----------
    model
    grammar
        GBNF.

    Raises
    ------
    UsageError
        For a bad grammar, or a model that has no end token.
    """

    name = "grammar"

    def __init__(self, model: Model, grammar: str) -> None:
        if not model.has_eog:
            raise UsageError("a grammar needs an end token, which this model's vocabulary lacks")
        self._n_vocab = model.n_vocab
        vocab = model.vocab
        self._sampler = owned(init_grammar(vocab, grammar), vocab)

    def allows(self, token: int) -> bool:
        """Whether the output may go on, or end, with a token."""
        return bool(self._kept(candidates(np.zeros(1, np.float32), token))[0])

    def allowed(self) -> NDArray[np.bool_]:
        """Return which tokens `allows` takes."""
        return self._kept(candidates(np.zeros(self._n_vocab, np.float32)))

    def accept(self, token: int) -> None:
        """Go on with a token that is allowed; llama.cpp aborts for another."""
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def reset(self) -> None:
        """Begin anew."""
        llama_cpp.llama_sampler_reset(self._sampler)

    def _kept(self, tokens: NDArray[Any]) -> NDArray[np.bool_]:
        llama_cpp.llama_sampler_apply(self._sampler, token_array(tokens))
        return np.asarray(tokens["logit"] != -np.inf)


def init_grammar(vocab: Any, grammar: str) -> Any:
    """Return llama.cpp's sampler of a GBNF grammar, which the caller frees.

    Raises
    ------
    UsageError
        When llama.cpp cannot parse it, the message says where, or would not survive it.
    """
    source = grammar.encode("utf-8", errors="replace")
    if not source.strip():
        raise UsageError("bad grammar: it is empty")
    if b"\0" in source or _nesting(grammar) > _MAX_NESTING:
        raise UsageError(f"bad grammar: NUL or more than {_MAX_NESTING} nested parentheses")
    why = fault(grammar)
    if why is not None:
        raise UsageError(f"bad grammar: {why}")
    logs.clear()
    with logs.native_stderr() as printed:  # parse errors bypass the log
        sampler = llama_cpp.llama_sampler_init_grammar(vocab, source, b"root")
    if not sampler:
        raise UsageError(f"bad grammar: {_cause(printed)}")
    return sampler


def _cause(printed: list[str]) -> str:
    for line in printed:
        _, found, cause = line.partition("error parsing grammar: ")
        if found:
            return _one_line(cause)
    return _one_line("; ".join(logs.errors())) or "llama.cpp does not accept it"


def _nesting(grammar: str) -> int:
    depth = deepest = 0
    for char in _OPAQUE.sub("", grammar):
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    return deepest


def _one_line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 160 else line[:157] + "..."
