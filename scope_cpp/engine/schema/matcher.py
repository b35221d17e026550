"""Keeps an output to a JSON schema: llguidance's matcher over a model's vocabulary."""

from __future__ import annotations

import json
import re
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from scope_cpp.engine.model import Model
from scope_cpp.engine.schema.errors import refusal
from scope_cpp.engine.schema.read import Document, read
from scope_cpp.engine.schema.sound import require
from scope_cpp.errors import UsageError

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer

R = TypeVar("R")

# One space, or a new line and its indentation: what models write, and never without end
WHITE_SPACE = r" |\n(?: {0,20}|\t{0,5})"

_MOST_ITEMS = 3000  # ways to go on at one place; the time for a byte grows with their square
_MOST_ITEMS_OF_TOKENS = 100_000  # the same, for all tokens that are tried at one place
_MOST_STATES = 50_000  # of the lexer, about 2 KiB each
_MOST_BLAMED = 200  # subschemas that are tried one by one to find the wrong one
_SPECIAL = b"\xff"  # begins what is no text
_NO_TOKEN = "NoExtensionBias"
_CAUSE = re.compile(r"(?:at \d+\(\d+\): )?(?:failed to compile JSON schema: )?([^\n]*)")
_EXPRESSION = re.compile(r"regex parse error:\n.*?\nerror: ([^\n]*)", re.DOTALL)


class Vocabulary:
    """A model's tokens as llguidance needs them; `of` keeps it as long as the model.

    Attributes
    ----------
    tokens
        llguidance's; a token without text, or that ends the output, is none that a schema allows.
    ends
        bool (n_vocab,): which tokens end the output.
    """

    _lock = threading.Lock()
    _known: weakref.WeakKeyDictionary[Model, Vocabulary] = weakref.WeakKeyDictionary()

    def __init__(self, model: Model) -> None:
        from llguidance import LLTokenizer

        self.ends = np.zeros(model.n_vocab, np.bool_)
        self.ends[list(model.eog_tokens)] = True
        texts = [
            _SPECIAL + b"%d" % token if self.ends[token] or not piece else piece
            for token, piece in enumerate(model.pieces)
        ]
        ends = sorted(model.eog_tokens)
        self.tokens: LLTokenizer = LLTokenizer(
            cast(Any, _Tokens(texts, ends[0])), eos_token=ends, slices=[]
        )

    @classmethod
    def of(cls, model: Model) -> Vocabulary:
        """Return the vocabulary of a model, which is made the first time (about a second)."""
        with cls._lock:
            if model not in cls._known:
                cls._known[model] = cls(model)
            return cls._known[model]


class _Tokens:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids = ()

    def __init__(self, tokens: list[bytes], eos_token: int) -> None:
        self.tokens, self.eos_token_id = tokens, eos_token

    def __call__(self, text: bytes) -> list[int]:
        raise AssertionError("grammars are made with no_forcing: nothing is tokenized")


class CompiledSchema:
    """A JSON schema, ready for outputs; made in a fraction of a second without Python's lock.

    Parameters
    ----------
    model
        With a token that ends an output.
    schema
        JSON text.

    Raises
    ------
    UsageError
        For what is no schema, or cannot be enforced; the message says where it stands.
    """

    def __init__(self, model: Model, schema: str) -> None:
        if not model.has_eog:
            raise UsageError(
                "a JSON schema needs an end token, which this model's vocabulary lacks"
            )
        document = read(schema)
        require(document)
        self._vocabulary = Vocabulary.of(model)
        self._matcher = _compiled(self._vocabulary.tokens, document, "0")
        if self._matcher.is_error():
            cause = _cause(self._matcher)
            raise refusal(_blamed(self._vocabulary.tokens, schema, cause), f"{cause}")

    def begin(self) -> SchemaConstraint:
        """Return the constraint of a new output."""
        return SchemaConstraint(self._vocabulary, self._matcher.deep_copy())


class SchemaConstraint:
    """One output that is being written, see `Constraint`.

    What may take long, a mask and a token that is accepted, runs without Python's lock.
    """

    name = "JSON schema"

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher) -> None:
        self._ends, self._matcher = vocabulary.ends, matcher
        self._mask: NDArray[np.bool_] | None = None
        self._executor, self._idle = _beside(vocabulary.tokens)

    def allows(self, token: int) -> bool:
        """Whether the output may go on, or end, with a token."""
        return bool(self.allowed()[token])

    def allowed(self) -> NDArray[np.bool_]:
        """Return which tokens `allows` takes."""
        if self._mask is None:
            self._mask = self._compute_mask()
        return self._mask

    def _compute_mask(self) -> NDArray[np.bool_]:
        words = np.zeros((self._ends.size + 31) // 32, np.uint32)
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self._matcher.get_error().startswith(_NO_TOKEN):
            return np.zeros_like(self._ends)
        bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
        texts = bits[: self._ends.size].astype(np.bool_) & ~self._ends
        mask: NDArray[np.bool_] = texts | (self._ends & bool(self._matcher.is_accepting()))
        return self._sound(mask)

    def accept(self, token: int) -> None:
        """Go on with a token that is allowed."""
        if not self._ends[token]:
            self._mask = None
            self._executor.consume_token_par([(self._matcher, token), (self._idle, token)])
            self._sound(None)

    def reset(self) -> None:
        """Begin anew."""
        self._mask = None
        self._matcher.reset()

    def _sound(self, result: R) -> R:
        """Return `result`, unless the matcher gave up; it never goes on after that."""
        if self._matcher.is_error():
            raise UsageError(
                "the JSON schema has too many ways to go on here "
                f"({_cause(self._matcher)}): simplify it"
            )
        return result


def _beside(tokens: LLTokenizer) -> tuple[LLExecutor, LLMatcher]:
    """Return what lets a matcher take a token without Python's lock.

    llguidance gives the lock up only for several matchers at once. So another one goes along, which
    has given up from the start and costs nothing.
    """
    from llguidance import LLExecutor, LLMatcher

    return LLExecutor(1), LLMatcher(tokens, "", log_level=0)


def _compiled(tokens: LLTokenizer, document: Document, name: str) -> LLMatcher:
    """Return the matcher for one of the document's schemas; it may be in an error."""
    from llguidance import LLMatcher

    options = {
        "whitespace_pattern": WHITE_SPACE,
        # a name that is described could be written a second way if letters could be escaped
        "json_allowed_escapes": 'nrbtf\\"' + ("u" if document.escapes else ""),
    }
    root = {"x-guidance": options, "$ref": f"#/$defs/{name}", "$defs": document.definitions}
    # all tokens that the schema allows, not only those that a tokenizer would choose
    grammar = f'%llguidance {{"no_forcing": true}}\nstart: %json {json.dumps(root)}'
    return LLMatcher(tokens, grammar, log_level=0, limits=_limits())


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=_MOST_ITEMS,
        step_max_items=_MOST_ITEMS_OF_TOKENS,
        max_lexer_states=_MOST_STATES,
        verbose_errors=False,
    )


def _blamed(tokens: LLTokenizer, schema: str, cause: str) -> str:
    """Return the place of the smallest subschema that fails for the same cause."""
    document = read(schema, apart=True)
    if len(document.places) <= _MOST_BLAMED:
        compiled = partial(_compiled, tokens, document)
        for name, place in reversed(document.places.items()):
            if _cause(compiled(name)) == cause:
                return place
    return "#"


def _cause(matcher: LLMatcher) -> str:
    """Return what llguidance says is wrong, without what it says about its own input."""
    error = matcher.get_error()
    found = _EXPRESSION.search(error) or _CAUSE.match(error)
    return " ".join(found[1].split())[:200] if found else ""
