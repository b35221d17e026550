"""Grammars: GBNF, and JSON schemas turned into GBNF."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from scope_cpp.engine import logs
from scope_cpp.engine.gbnf import left_recursive_rule
from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError
from scope_cpp.native.library import llama_cpp

# llama.cpp's parser is recursive: deeper nesting could exhaust the C stack
_MAX_NESTING = 256

# literals, character classes and comments: parentheses there do not nest
_OPAQUE = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#.*')


def grammar_source(model: Model, grammar: str | None, json_schema: str | None) -> str | None:
    """Return the GBNF of the grammar or JSON schema, None when neither is given.

    Raises
    ------
    UsageError
        For a JSON schema that cannot be turned into a grammar, or a model that has no end token:
        once the grammar is complete no token at all would be allowed.
    """
    if json_schema is not None:
        grammar = gbnf_of_schema(json_schema)
    if grammar is not None and not model.has_eog:
        raise UsageError("a grammar needs an end token, which this model's vocabulary lacks")
    return grammar


def gbnf_of_schema(json_schema: str) -> str:
    """Return the GBNF of a JSON schema, given as JSON text.

    Raises
    ------
    UsageError
        When it is no JSON, or uses what the converter does not know.
    """
    try:
        return str(import_module("llama_cpp.llama_grammar").json_schema_to_gbnf(json_schema))
    except Exception as err:  # the converter has no error type of its own
        raise UsageError(f"bad JSON schema: {_one_line(err) or type(err).__name__}") from None


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
    recursive = left_recursive_rule(grammar)
    if recursive is not None:
        raise UsageError(f"bad grammar: left recursion, {recursive} leads to itself at its start")
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
