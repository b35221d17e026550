"""The full cache's text and distributions: kept in one file, so that rows can be added later.

``NAME.npz`` holds NumPy arrays and one JSON text. For a text of n tokens, of whose distributions m
tokens are kept in all:

============  ==================================================================================
``tokens``    int32 (n,): the text
``logprobs``  float32 (n,): logarithms of their probabilities
``starts``    int64 (n + 1,): where the kept tokens of each distribution begin in the next two
``ids``       int32 (m,)
``likely``    float32 (m,): logarithms of the probabilities of ``ids``
``rest``      float64 (n,): probability of all tokens that are not kept
``about``     what the text depends on (`Reference.about`), and the text itself
============  ==================================================================================
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from scope_cpp.errors import ScopeError
from scope_cpp.eval.fidelity.divergence import (
    Distribution,
    Divergence,
    Likely,
    Logits,
    head_of,
    kl,
)
from scope_cpp.files import cannot_write, replace

About = dict[str, Any]
T = TypeVar("T")

_FORMAT = 1
_REMEDY = "remove it, or name another folder (--out): the full cache then writes its text anew"


@dataclass(frozen=True)
class Reference:
    """What the full cache wrote, and how likely it took which tokens to be.

    Attributes
    ----------
    about
        What it depends on, in plain values; see `about`.
    text
        The text itself.
    tokens, logprobs, starts, ids, likely, rest
        See the module.
    """

    about: About
    text: str
    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    starts: NDArray[np.int64]
    ids: NDArray[np.int32]
    likely: NDArray[np.float32]
    rest: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        n, starts = len(self.tokens), self.starts
        sizes = len(self.logprobs), len(self.rest), len(starts) - 1
        whole = sizes == (n, n, n) and starts[0] == 0 and (np.diff(starts) > 0).all()
        if not (n and whole and len(self.ids) == len(self.likely) == starts[-1]):
            raise ValueError("its arrays do not belong together")

    def __len__(self) -> int:
        return len(self.tokens)

    def likely_at(self, i: int) -> Likely:
        """Return the distribution of the `i`-th token."""
        kept = slice(int(self.starts[i]), int(self.starts[i + 1]))
        return Likely(self.ids[kept], self.likely[kept], float(self.rest[i]))


def about(
    model: str, sha256_of_ends: str, prompt: Sequence[int], seed: int, **settings: Any
) -> About:
    """Return what a text depends on: the model's file, the prompt's tokens, the seed and more."""
    digest = sha256(np.asarray(prompt, np.int32).tobytes()).hexdigest()
    return {
        "format": _FORMAT,
        "model": model,
        "sha256_of_ends": sha256_of_ends,
        "prompt": digest,
        "seed": seed,
        **settings,
    }


class Recorder:
    """Makes a reference of what is seen token by token."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._likely: list[Likely] = []

    def see(self, logits: Logits, token: int) -> None:
        """Take note of the logits that a token was drawn from."""
        found = Distribution.of(logits)
        self._tokens.append(token)
        self._logprobs.append(float(found.logprob(token)))
        self._likely.append(head_of(found))

    def reference(self, about: About, text: str) -> Reference:
        """Return what was seen; at least one token."""
        return Reference(
            about,
            text,
            np.array(self._tokens, np.int32),
            np.array(self._logprobs, np.float32),
            np.cumsum([0, *(len(likely.ids) for likely in self._likely)]),
            np.concatenate([likely.ids for likely in self._likely]),
            np.concatenate([likely.logprobs for likely in self._likely]),
            np.array([likely.rest for likely in self._likely]),
        )


class Comparison:
    """Compares a row with a reference, token by token."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._kl: list[float] = []
        self._same: list[int] = []
        self._extra: list[float] = []

    def see(self, logits: Logits, token: int) -> None:
        """Take note of a row's logits before it was fed a token."""
        i, row = len(self._kl), Distribution.of(logits)
        full = self._reference.likely_at(i)
        self._kl.append(_short(kl(full, row)))
        self._same.append(int(np.argmax(logits) == full.ids[0]))
        self._extra.append(_short(float(self._reference.logprobs[i] - row.logprob(token))))

    def divergence(self, counted: int | None) -> Divergence:
        """Return what was seen, see `Divergence`."""
        return Divergence(tuple(self._kl), tuple(self._same), tuple(self._extra), counted)


def _short(value: float) -> float:
    """Keep what has a meaning: a line of a run's file has thousands of these."""
    return float(f"{value:.5g}")


def file_name(item: str) -> str:
    """Return the name of an item's file: its id, as far as a name can have it."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", item).strip(".-")[:60]
    if plain == item:
        return f"{plain}.npz"
    return f"{plain}-{sha256(item.encode()).hexdigest()[:8]}.npz".removeprefix("-")


def save(path: Path, reference: Reference) -> None:
    """Write a reference; at any moment the whole file is there, or none.

    Raises
    ------
    ScopeError
        If it can't be written.
    """
    buffer = io.BytesIO()
    content = json.dumps({"about": reference.about, "text": reference.text})
    arrays = {name: getattr(reference, name) for name in _ARRAYS}
    np.savez(buffer, about=np.array(content), **arrays)
    try:
        path.parent.mkdir(exist_ok=True)
        replace(path, buffer.getvalue())
    except OSError as err:
        cannot_write(path, err)


def check(path: Path, wanted: About) -> None:
    """Refuse the file at `path`, if there is one, as `load` does; its arrays are not read."""
    _opened(path, wanted, lambda file: None)


def load(path: Path, wanted: About) -> Reference | None:
    """Return the reference in a file, ``None`` if there is no file.

    Parameters
    ----------
    path
    wanted
        What its text must depend on, see `about`.

    Raises
    ------
    ScopeError
        If it belongs to another model, prompt or setting, is damaged, or can't be read.
    """
    return _opened(path, wanted, _read)


_ARRAYS = {
    "tokens": np.int32,
    "logprobs": np.float32,
    "starts": np.int64,
    "ids": np.int32,
    "likely": np.float32,
    "rest": np.float64,
}


def _opened(path: Path, wanted: About, read: Callable[[Any], T]) -> T | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is no archive of arrays")
            different = _different(json.loads(str(file["about"]))["about"], wanted)
            if different:
                raise ScopeError(f"{path} belongs to {different}: {_REMEDY}")
            return read(file)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise ScopeError(f"{path} cannot be read: {err.strerror or err}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as err:
        raise ScopeError(f"{path} is damaged ({err}): {_REMEDY}") from None


def _read(file: Any) -> Reference:
    content = json.loads(str(file["about"]))
    arrays = {name: file[name] for name in _ARRAYS}
    for name, kind in _ARRAYS.items():
        if arrays[name].dtype != kind or arrays[name].ndim != 1:
            raise ValueError(f"{name} is no list of {np.dtype(kind)}")
    return Reference(dict(content["about"]), str(content["text"]), **arrays)


def _different(found: About, wanted: About) -> str:
    """Say what a text belongs to instead of what is wanted; nothing if it is that."""
    if found.get("sha256_of_ends") != wanted["sha256_of_ends"]:
        return f"another model ({found.get('model')})"
    if found.get("prompt") != wanted["prompt"]:
        return "another prompt"
    told = {"model", "sha256_of_ends", "prompt"}
    other = [
        f"{name} {found.get(name)} instead of {value}"
        for name, value in wanted.items()
        if name not in told and found.get(name) != value
    ]
    return f"another run ({', '.join(other)})" if other else ""
