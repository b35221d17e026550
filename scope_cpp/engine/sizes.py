"""What the settings come to: cells and pools, for one prompt or for a conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from scope_cpp.engine import budget as dial
from scope_cpp.engine.cache.marks import WITH_BESIDE
from scope_cpp.engine.forecast import Forecast
from scope_cpp.engine.kv_types import bytes_per_cell
from scope_cpp.engine.length import longest_text
from scope_cpp.engine.memory import free_memory
from scope_cpp.engine.settings import CHAT_CELLS, Settings, require_even
from scope_cpp.errors import TooLong, UsageError
from scope_cpp.policies import DecodePolicy, PrefillPolicy, make_prefill
from scope_cpp.policies.sizes import TooSmall

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model

# Budgets that are tried to name the least; no policy needs more by itself
MOST_TRIED = 10_000

# Prefill policy that is named to those whose prompt has no room
THINS = "snapkv"

P = TypeVar("P", DecodePolicy, PrefillPolicy)


@dataclass(frozen=True)
class Sizes:
    """What the settings come to for one prompt.

    Attributes
    ----------
    capacity
        Most cells that the sequence may use.
    bounded
        False if prompt and output fit: nothing is ever evicted.
    decode, prefill
        Policies with their sizes.
    warnings
        One line each.
    """

    capacity: int
    bounded: bool
    decode: DecodePolicy
    prefill: PrefillPolicy
    warnings: tuple[str, ...]


def resolve(
    settings: Settings,
    model: Model,
    n_prompt: int,
    n_predict: int | None,
    free: int | None = None,
) -> Sizes:
    """Derive capacity and pools from the settings.

    The budget covers prompt and output. If both fit into it nothing is bounded, unless the options
    themselves name smaller pools. Otherwise the prefill policy takes its share first, and the
    decode policy divides the rest. `free` are the bytes that cells may take; without it the machine
    is asked.

    Raises
    ------
    UsageError
        If the budget is no budget, too small for the prompt or for the policy, or over memory.
    """
    decode, prefill = settings.policies()
    if decode.name == "full" and n_predict is None:
        raise UsageError("--policy full needs the longest output: give -n or -c")
    n_cells = _budget_cells(settings, model, n_prompt, n_predict, decode, free)
    divide = partial(_divide, decode, prefill, n_prompt, n_predict)
    try:
        return divide(n_cells, given=settings.budget is not None)
    except ValueError as err:
        remedy = _remedy(err, divide, n_cells, n_prompt, n_predict)
        if not remedy:
            raise UsageError(str(err)) from None
        thinned = _or_thinned(decode, prefill, n_prompt, n_predict, n_cells)
        raise TooLong(f"{err}: {', or '.join([*remedy, *thinned])}") from None


def _divide(
    decode: DecodePolicy,
    prefill: PrefillPolicy,
    n_prompt: int,
    n_predict: int | None,
    n_cells: int,
    *,
    given: bool = True,
) -> Sizes:
    """Divide cells, which are `given` or the default's; ValueError if they are too few."""
    fits = n_predict is not None and n_prompt + n_predict <= n_cells
    if n_predict and fits and not _bound_by_options(decode, prefill, n_prompt, n_predict):
        return Sizes(n_prompt + n_predict, False, decode, prefill, ())
    prefill = prefill.resolve(n_cells, n_prompt)
    kept = prefill.cells(n_prompt)
    if kept >= n_cells:
        raise TooSmall(f"the prompt keeps {kept} cells, the budget is {n_cells}", kept + 1)
    if given:
        decode = decode.resolve(n_cells, kept, n_predict)
    else:
        decode = _resolve_default(decode, n_cells, kept, n_predict)
        n_cells = max(n_cells, decode.capacity(kept, n_predict))
    capacity = min(n_cells, max(decode.capacity(kept, n_predict), kept + 1))
    return Sizes(capacity, True, decode, prefill, decode.warnings() + prefill.warnings())


def _bound_by_options(
    decode: DecodePolicy, prefill: PrefillPolicy, n_prompt: int, n_predict: int
) -> bool:
    """Whether pools named by options hold less than prompt and output, whatever the budget."""
    kept = n_prompt
    if prefill.sized:
        kept = prefill.cells(n_prompt)
        if prefill.uneven and not prefill.keeps_all(n_prompt):
            return True
    held = kept + n_predict
    if decode.sized:
        held = _attempt(lambda: decode.resolve(None, kept, n_predict)).capacity(kept, n_predict)
    return held < n_prompt + n_predict


def _remedy(
    err: ValueError,
    divide: Callable[[int], Sizes],
    n_cells: int,
    n_prompt: int,
    n_predict: int | None,
) -> list[str]:
    """Return what helps where `n_cells` were refused: the least budget that is not, or less.

    The budget that leaves room for the usual output is named beside it. Nothing if none helps.
    """
    whole = None if n_predict is None else n_prompt + n_predict
    least = _least_budget(divide, n_cells, whole)
    ways = [] if least is None else [f"give --budget {least} or more"]
    usual = n_prompt + dial.usual_room(n_predict)
    if least is not None and usual > least and _least_budget(divide, usual - 1, whole) == usual:
        ways = [f"{ways[0]}, such as {usual}"]
    if isinstance(err, TooSmall) and least is not None and least < err.minimum:
        ways[0] += " (prompt and output fit into that, and nothing is evicted)"
    if isinstance(err, TooSmall) and err.options:
        smaller = " or ".join(f"-o {name}" for name in err.options)
        ways.append(f"a smaller {smaller}" if ways else f"give a smaller {smaller}")
    return ways


def _least_budget(divide: Callable[[int], Sizes], refused: int, whole: int | None) -> int | None:
    """Return the least budget above one that was refused with which all have their sizes.

    None is more than the full length, `whole`, which may need no sizes.
    """
    n_cells = refused + 1
    for _ in range(MOST_TRIED):
        if whole is not None and n_cells > whole:
            return None
        try:
            divide(n_cells)
        except ValueError as err:
            n_cells += 1
            if isinstance(err, TooSmall):
                least = max(n_cells, err.minimum)
                n_cells = least if whole is None else max(n_cells, min(least, whole))
        else:
            return n_cells
    return None


def _or_thinned(
    decode: DecodePolicy,
    prefill: PrefillPolicy,
    n_prompt: int,
    n_predict: int | None,
    n_cells: int,
) -> list[str]:
    """Return the other remedy for a long prompt, where it is one within this budget."""
    if prefill.name != "full":
        return []
    try:
        _divide(decode, make_prefill(THINS, {}), n_prompt, n_predict, n_cells)
    except ValueError:
        return []
    return [f"a prefill policy that drops part of the prompt (--prefill {THINS})"]


def _budget_cells(
    settings: Settings,
    model: Model,
    n_prompt: int,
    n_predict: int | None,
    decode: DecodePolicy,
    free: int | None,
) -> int:
    parsed = dial.parse_budget(settings.budget)
    if decode.name == "full" and settings.budget is None:
        parsed = dial.parse_budget("100%")
    per_cell = bytes_per_cell(model, settings.type_k, settings.type_v)
    if free is not None:  # all else is there already
        return dial.cells(
            parsed,
            n_prompt=n_prompt,
            n_predict=n_predict,
            taken=lambda n: n * per_cell,
            free_memory=free,
        )
    full = None if n_predict is None else n_prompt + n_predict
    with Forecast(model) as forecast:
        return dial.cells(
            parsed,
            n_prompt=n_prompt,
            n_predict=n_predict,
            taken=forecast.taken(settings, full=full),
            free_memory=free_memory(gpu=settings.offload_kqv and model.offloaded),
        )


def _resolve_default(
    decode: DecodePolicy, n_cells: int, n_prompt_cells: int, n_predict: int | None
) -> DecodePolicy:
    """Without a budget the default one serves, unless the options ask for more."""
    try:
        return decode.resolve(n_cells, n_prompt_cells, n_predict)
    except ValueError:
        return _attempt(lambda: decode.resolve(None, n_prompt_cells, n_predict))


def _attempt(resolve: Callable[[], P]) -> P:
    try:
        return resolve()
    except ValueError as err:
        raise UsageError(str(err)) from err


# Queries that a conversation records, whatever its policies want: others may come
CHAT_QUERIES = 64
# The pool of an answer: a quarter of the budget, at most this
MOST_ANSWER_CELLS = 1024


def conversation_cells(settings: Settings, model: Model) -> int:
    """Cells that a conversation may use, hard: the budget, see `scope_cpp.engine.budget`.

    Without a budget `CHAT_CELLS`, or fewer where half of the free memory holds fewer, and never
    more than the longest text has tokens (`longest_text`). A share is one of that.

    Raises
    ------
    UsageError
        If the budget is no budget, over memory, or a share of no length.
    """
    parsed, most = dial.parse_budget(settings.budget), longest_text(settings, model)
    if parsed.kind == "percent" and most is None:
        raise UsageError(
            f"budget {parsed.text} is a share of a length that a conversation does not have: give "
            "cells (8192, 8k), memory (512MiB), or the longest conversation with -c"
        )
    bytes_per_cell(model, settings.type_k, settings.type_v)  # refuses what llama.cpp has not
    if settings.budget is None:
        parsed = dial.parse_budget("auto")
        most = CHAT_CELLS if most is None else min(CHAT_CELLS, most)
    with Forecast(model) as forecast:
        return dial.cells(
            parsed,
            n_prompt=0,
            n_predict=most,
            taken=forecast.taken(settings, n_recorded=CHAT_QUERIES, n_beside=WITH_BESIDE),
            free_memory=free_memory(gpu=settings.offload_kqv and model.offloaded),
        )


def conversation_policies(
    settings: Settings, n_cells: int, n_predict: int | None
) -> tuple[DecodePolicy, PrefillPolicy]:
    """Policies of a conversation of `n_cells`; the sizes hold for every answer's own pool.

    A pool has a quarter of the cells, at most `MOST_ANSWER_CELLS`, unless options name its parts.
    A policy that ranks earlier rows too has all cells.

    Raises
    ------
    UsageError
        If options name more than there is, or the size of a prompt's pool: prompts stay whole
        while there is room, and then give what is needed.
    """
    decode, prefill = settings.policies()
    require_even(
        "a conversation's turns give way in all layers alike: choose another one", decode, prefill
    )
    if prefill.name != "full" and prefill.sized:
        raise UsageError(
            f"the options give --prefill {prefill.name} a size, in a conversation prompts stay "
            "whole until room runs out: leave the size out"
        )
    if decode.name == "full":
        return decode, prefill
    if decode.ranks_prompt:
        return _attempt(lambda: decode.resolve(n_cells, 0, n_predict)), prefill
    pool = max(1, min(MOST_ANSWER_CELLS, n_cells // 4))
    decode = _resolve_default(decode, pool, 0, n_predict)
    needed = decode.capacity(0, n_predict)
    if needed >= n_cells:
        raise UsageError(
            f"{decode.name}: an answer's pool takes {needed} cells, the budget is {n_cells}: "
            "give a larger --budget or smaller pools with -o"
        )
    return decode, prefill
