"""From names, flags and budgets to rows."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from scope_cpp.engine.kv_types import kv_type
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import UsageError
from scope_cpp.eval import sets
from scope_cpp.eval.rows import Row, is_part, read_beta
from scope_cpp.near import did_you_mean, valid_are
from scope_cpp.policies import decode_policies, parse_options

DEFAULT_ROWS = (
    "full",
    "scope-foresight",
    "scope-retrieval",
    "scope-slide",
    "scope-adaptive",
    "scope-discontinuous",
    "h2o",
    "streaming-llm",
)

# Without a budget: so much of the longest output, what is published for most methods
DEFAULT_SHARE = 9

# H2O's recent half is one of the output's cells, as in its measurements beside SCOPE
_OPTIONS = {
    "scope-foresight": ("interval=auto",),
    "scope-slide": ("interval=auto",),
    "h2o": ("recent=beta/2",),
}

_FLAGS = {
    "--policy": "policy",
    "--prefill": "prefill",
    "--granularity": "granularity",
    "--option": "options",
    "-o": "options",
    "--budget": "budget",
    "--beta": "beta",
    "--cache-type-k": "type_k",
    "-ctk": "type_k",
    "--cache-type-v": "type_v",
    "-ctv": "type_v",
    "--flash-attn": "flash_attn",
    "-fa": "flash_attn",
}

Values = dict[str, Any]


def known_rows() -> list[str]:
    """Return the names that ``--rows`` takes: sets of rows, and policies."""
    return [*sets.SETS, *decode_policies()]


def default_rows() -> list[str]:
    """Return the rows of a run that names none, with their options."""
    return [":".join((name, *_OPTIONS.get(name, ()))) for name in DEFAULT_ROWS]


@dataclass(frozen=True)
class Grid:
    """What rows a user asks for.

    Attributes
    ----------
    names
        ``NAME[:KEY=VALUE]...`` of policies, or of sets of rows (`sets`); a policy has the options
        that serve it best here, and then those named.
    named
        ``NAME: FLAGS``, with flags of ``scope generate`` and ``--beta``.
    betas, budgets
        Cells beside the prompt, or shares of the output, each for all rows; or budgets of prompt
        and output.
    types
        KV cache types of K and V, each pair for all rows.
    base
        What is the same in all rows, options included; the full cache takes none.
    sized
        Whether names of rows say their cells where all have the same, too.
    """

    names: tuple[str, ...] = DEFAULT_ROWS
    named: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    betas: tuple[int | str, ...] = ()
    budgets: tuple[str, ...] = ()
    types: tuple[tuple[str, str], ...] = (("f16", "f16"),)
    base: Settings = field(default_factory=Settings)
    sized: bool = False

    def __post_init__(self) -> None:
        """Check what needs no policy."""
        if self.betas and self.budgets:
            raise UsageError("--beta and --budget: leave one out")
        for beta in self.betas:
            read_beta(str(beta))
        for name in {name for pair in self.types for name in pair}:
            kv_type(name)

    def rows(self, beta: int | str) -> list[Row]:
        """Return the rows; the full cache is always there, once for each pair of types.

        Parameters
        ----------
        beta
            Cells beside the prompt where the user says nothing.

        Raises
        ------
        UsageError
            For a name, an option or a flag that is none, or two rows of one name.
        """
        found: dict[str, Row] = {}
        for row in self._all(beta):
            if row.name in found and not row.is_full:
                raise UsageError(f"two rows are called {row.name!r}: name one in another way")
            found.setdefault(row.name, row)
        return list(found.values())

    def _all(self, beta: int | str) -> Iterator[Row]:
        sizes: list[Values] = [{"budget": budget} for budget in self.budgets]
        sizes = sizes or [{"beta": cells} for cells in self.betas or (beta,)]
        asked = [row for text in self.names for row in self._by_name(text)]
        asked += [_by_flags(text) for text in self.named]
        if "full" not in self.names:
            asked[:0] = self._by_name("full")
        for types, size, (label, values) in product(self.types, sizes, asked):
            yield self._row(label, values, size, types)

    def _by_name(self, text: str) -> list[tuple[str, Values]]:
        name, *options = text.split(":")
        if name == "full":
            return [(text, {"policy": name, "prefill": "full", "options": options})]
        if name not in known_rows() and did_you_mean(name, known_rows()):
            raise UsageError(f"unknown row {name!r}{valid_are(name, known_rows())}")
        rows = sets.named(text) or [(text, {"policy": name, "options": options})]
        return [(label, {**values, "options": self._options(values)}) for label, values in rows]

    def _options(self, values: Values) -> list[str]:
        return [*_OPTIONS.get(values["policy"], ()), *self.options, *values["options"]]

    def _row(self, label: str, asked: Values, size: Values, types: tuple[str, str]) -> Row:
        values = {"type_k": types[0], "type_v": types[1], **asked}
        own = bool({"beta", "budget"} & set(asked))
        if not own:
            values |= size
        beta = values.pop("beta", None)
        if beta is not None:
            values["budget"] = None
        last = parse_options(values.get("options", ()))  # of equal keys the last counts
        options = [f"{key}={value}" for key, value in last.items()]
        parts = tuple(option for option in options if is_part(option))
        values["options"] = tuple(option for option in options if not is_part(option))
        try:
            row = Row(label, replace(self.base, **values), beta, parts, label)
            if beta is not None:
                row.settings_for(1, 1)
        except UsageError as err:
            raise UsageError(f"row {label!r}: {err}") from None
        return replace(row, name=label + self._suffix(row, own))

    def _suffix(self, row: Row, own: bool) -> str:
        suffix = ""
        several = self.sized or max(len(self.betas), len(self.budgets)) > 1
        if several and row.beta is not None and not (row.is_full or own):
            suffix += f", beta {row.beta}"
        elif several and not (row.is_full or own):
            suffix += f", budget {row.settings.budget}"
        if len(self.types) > 1:
            types = row.settings.type_k, row.settings.type_v
            suffix += f", {'/'.join(dict.fromkeys(types))}"
        return suffix


def _by_flags(text: str) -> tuple[str, Values]:
    """Read ``NAME: FLAGS``."""
    label, colon, rest = (part.strip() for part in text.partition(":"))
    if not (label and colon):
        raise UsageError(f'--row {text!r}: write it as "NAME: --policy h2o -o recent=48"')
    try:
        words = shlex.split(rest)
    except ValueError as err:
        raise UsageError(f"--row {text!r}: {err}") from None
    values: Values = {"options": []}
    for flag, value in zip(words[::2], [*words[1::2], None], strict=False):
        name = _FLAGS.get(flag)
        if name is None:
            raise UsageError(f"--row {text!r}: no such flag: {flag}{valid_are(flag, _FLAGS)}")
        if value is None:
            raise UsageError(f"--row {text!r}: {flag} needs a value")
        if name == "options":
            values[name].append(value)
        else:
            values[name] = _beta(text, value) if name == "beta" else value
    return label, values


def _beta(text: str, value: str) -> int | str:
    try:
        return read_beta(value)
    except UsageError as err:
        raise UsageError(f"--row {text!r}: {err}") from None
