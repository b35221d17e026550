"""What a user asks of ``scope bench``, and the rows that it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scope_cpp.bench.row import Compute, Row
from scope_cpp.bench.sizes import sizes_of
from scope_cpp.engine.kv_types import needs_flash
from scope_cpp.engine.ranges import INT32_MAX
from scope_cpp.engine.settings import DEFAULT_POLICY
from scope_cpp.errors import UsageError
from scope_cpp.near import valid_are

if TYPE_CHECKING:
    from scope_cpp.engine.model import Model

TESTS = ("gen", "prompt", "memory", "turn", "python", "parallel")
FLASH = ("on", "off")
FILLS = ("copy", "read", "decode")

# what a test takes where the user says nothing; of models with windows or states see `filling`
N_PROMPT = dict.fromkeys(TESTS, 2048) | {"turn": 128, "python": 64, "parallel": 512}
N_GEN = {"gen": 32, "memory": 4, "turn": 32, "python": 64, "parallel": 32}
N_OUTPUT = {"gen": 2048, "parallel": 2048, "memory": 8192}
REPETITIONS = dict.fromkeys(TESTS, 5) | {"memory": 1}
FILL = {"gen": "copy", "memory": "read"}
# of texts that are written at once, which are measured in the middle
_ROWS_OUTPUT = 2 * N_OUTPUT["parallel"]
N_TURNS = 10
AROUND_A_TURN = 64  # tokens that a chat template may put around a message


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Attributes
    ----------
    compute
        The model, and how llama.cpp computes.
    tests
        Some of `TESTS`.
    n_prompts, depths
        Lengths of the prompt, and positions at which generation is measured; empty: the test's own.
    n_parallel
        Numbers of texts to write at once.
    n_gen, repetitions
        Tokens of a repetition, and how many there are; ``None``: the test's own.
    flash
        With which of ``on`` and ``off`` bounded rows run; full ones run with both.
    policies
        ``name:key=value:...``; empty: the default policy.
    prefills, granularities, options
        Of bounded rows: every combination is a row.
    beta, budget
        Cells of the output's pool; or of prompt and output, in the forms of a budget.
    fill
        See `Row`; ``None``: the test's own.
    stock
        Folder of an unpatched libllama for the full rows.
    """

    compute: Compute
    tests: tuple[str, ...] = ("gen",)
    n_prompts: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    n_parallel: tuple[int, ...] = (1, 2, 4, 8)
    n_gen: int | None = None
    repetitions: int | None = None
    flash: tuple[str, ...] = FLASH
    policies: tuple[str, ...] = ()
    prefills: tuple[str, ...] = ("full",)
    granularities: tuple[str, ...] = ("head",)
    options: tuple[str, ...] = ()
    beta: int = 512
    budget: str | None = None
    fill: str | None = None
    stock: str | None = None

    def __post_init__(self) -> None:
        """Check what needs no model."""
        for value, valid, what in (
            *((test, TESTS, "test") for test in self.tests),
            *((flash, FLASH, "flash attention") for flash in self.flash),
            (self.fill, (None, *FILLS), "fill"),
        ):
            if value not in valid:
                known = valid_are(str(value), filter(None, valid))
                raise UsageError(f"unknown {what} {value!r}{known}")
        for what, numbers, least in (
            ("-p", self.n_prompts, 1),
            ("-d", self.depths, 1),
            ("-np", self.n_parallel, 1),
            ("-n", (self.n_gen,), 1),
            ("-r", (self.repetitions,), 1),
            ("--beta", (self.beta,), 2),
        ):
            for number in numbers:
                if number is not None and not least <= number <= INT32_MAX:
                    end = f"at least {least}" if number < least else f"at most {INT32_MAX}"
                    raise UsageError(f"{what} {number}: give {end}")
        if not self.flashes():
            raise UsageError(
                f"-ctv {self.compute.type_v} needs flash attention: give -fa on, or -ctv f16"
            )
        if self.stock is not None:
            _check_library(self.stock)

    def flashes(self, of: Sequence[str] | None = None) -> list[str]:
        """Return those of the attentions that the type of V can be had with; `of`: all asked."""
        plain = not needs_flash(self.compute.type_v)
        return [flash for flash in of or self.flash if plain or flash == "on"]

    def rounds(self, test: str) -> int:
        """Repetitions of a test, without the one that warms up."""
        return self.repetitions or REPETITIONS[test]

    def rows(self, test: str, model: Model) -> list[Row]:
        """Return the rows of a test; what they need of each other comes first.

        Raises
        ------
        UsageError
            If a depth lies within a prompt, or the cells do not suffice for a policy.
        """
        build = {
            "gen": _at_depths,
            "memory": _at_depths,
            "prompt": _prompts,
            "python": _python,
            "parallel": _parallel,
        }
        return list(dict.fromkeys(build.get(test, _turns)(self, test, model)))

    def filling(self, test: str, model: Model) -> str:
        """How the cache is filled up to the depth.

        Windows and recurrent states of a depth follow from every token before it, so there nothing
        is copied.

        Raises
        ------
        UsageError
            If copies are asked for on such a model.
        """
        if not model.has_fixed_state:
            return self.fill or FILL.get(test, "copy")
        if self.fill not in (None, "decode"):
            raise UsageError(
                f"--fill {self.fill}: {model.path.name} ({model.arch}) has sliding windows or "
                "recurrent states, which can't be copied to a depth: leave it out, or give decode"
            )
        return "decode"

    def prompts(self, test: str) -> tuple[int, ...]:
        """Prompt lengths of a test."""
        return self.n_prompts or (N_PROMPT[test],)

    def steps(self, test: str) -> int:
        """Steps of a block."""
        return self.n_gen or N_GEN.get(test, 1)

    def chosen(self) -> Iterator[dict[str, Any]]:
        """Yield the settings of the bounded rows."""
        texts = self.policies or (DEFAULT_POLICY,)
        for text, prefill, granularity in product(texts, self.prefills, self.granularities):
            name, *options = text.split(":")
            yield {
                "policy": name,
                "prefill": prefill,
                "granularity": granularity,
                "options": (*self.options, *options),
            }


def _at_depths(request: Request, test: str, model: Model) -> Iterator[Row]:
    n_steps, rounds = request.steps(test), request.rounds(test)
    fill = request.filling(test, model)
    bounded = []
    for n_prompt in request.prompts(test):
        depths = request.depths or (n_prompt + N_OUTPUT[test],)
        for depth in depths:
            _check_depth(depth, n_prompt)
            plain = Row(test, "full", "on", depth + 1, n_steps=n_steps, depth=depth, fill=fill)
            plain = replace(plain, n_prompt=n_prompt if fill == "read" else 0)
            yield from _both_paths(request, plain)
            # one output that passes all the depths
            longest = max(depths) - n_prompt + (rounds + 2) * n_steps
            bounded += [
                replace(row, depth=depth, fill=fill, n_steps=n_steps, n_prompt=n_prompt)
                for row in _bounded(request, test, model, n_prompt, longest)
            ]
    for row in bounded:
        same = Row(test, "same", "on", row.cells, n_steps=n_steps)
        if fill == "read":
            same = replace(same, fill=fill, n_prompt=row.n_prompt)
        elif model.has_fixed_state:
            same = replace(same, fill=fill)
        yield from _both_paths(request, same)
        if request.stock is not None:
            yield from _both_paths(request, replace(same, role="hooks"))
    yield from bounded


def _prompts(request: Request, test: str, model: Model) -> Iterator[Row]:
    for n_prompt in request.prompts(test):
        yield from _both_paths(
            request,
            Row(test, "full", "on", n_prompt, n_read=n_prompt, depth=n_prompt, n_prompt=n_prompt),
        )
        longest = N_OUTPUT["gen"]
        for row in _bounded(request, test, model, n_prompt, longest):
            yield replace(row, depth=n_prompt, n_read=n_prompt)


def _python(request: Request, test: str, model: Model) -> Iterator[Row]:
    """Rows through `Generation`, the full cache among them."""
    n_steps = request.steps(test)
    for n_prompt in request.prompts(test):
        longest = max((request.rounds(test) + 2) * n_steps, 4 * request.beta)
        full = Row(test, "bounded", "on", 0, n_steps=n_steps, n_prompt=n_prompt, depth=n_prompt)
        full = replace(full, policy="full", n_predict=longest, budget="100%")
        full = replace(full, cells=sizes_of(full, request.compute, model).capacity)
        yield from _both_paths(request, full)
        asked = request.budget or str(n_prompt + request.beta)
        for row in _bounded(replace(request, budget=asked), test, model, n_prompt, longest):
            yield replace(row, depth=n_prompt, n_steps=n_steps)


def _parallel(request: Request, test: str, model: Model) -> Iterator[Row]:
    """Texts at once, one alone, and as many of the full cache as have room in the same cells."""
    n_steps, rounds = request.steps(test), request.rounds(test)
    fill = request.filling(test, model)
    for n_prompt, chosen in product(request.prompts(test), request.depths or (None,)):
        depth = n_prompt + N_OUTPUT["parallel"] if chosen is None else chosen
        _check_depth(depth, n_prompt)
        longest = max(_ROWS_OUTPUT, depth - n_prompt + (rounds + 2) * n_steps)
        if fill == "decode":
            longest += n_prompt  # the first texts are ahead of the last
        asked = replace(request, budget=request.budget or str(n_prompt + request.beta))
        bounded = [
            replace(row, depth=depth, fill=fill, n_steps=n_steps, n_rows=n, cells=n * row.cells)
            for row in _bounded(asked, test, model, n_prompt, longest)
            for n in dict.fromkeys((1, *request.n_parallel))
        ]
        full = Row(test, "bounded", "on", 0, n_steps=n_steps, n_prompt=n_prompt, depth=depth)
        full = replace(full, policy="full", fill=fill, n_predict=longest, budget="100%")
        for n in dict.fromkeys(max(1, row.full_rows) for row in bounded):
            yield from _both_paths(request, replace(full, n_rows=n, cells=n * full.full_cells))
        yield from bounded


def _turns(request: Request, test: str, model: Model) -> Iterator[Row]:
    """Conversations with room for all: what they read depends on nothing that gave way."""
    longest = request.steps(test)
    for n_prompt in request.prompts(test):
        # a quarter is the pool of an answer
        room = N_TURNS * (n_prompt + longest + AROUND_A_TURN) * 4 // 3
        for chosen, flash in product(request.chosen(), request.flashes()):
            yield Row(
                test,
                "bounded",
                flash,
                room,
                n_prompt=n_prompt,
                n_predict=longest,
                fill=request.filling(test, model),
                budget=request.budget or str(room),
                n_turns=N_TURNS,
                **chosen,
            )


def _bounded(
    request: Request, test: str, model: Model, n_prompt: int, longest: int
) -> Iterator[Row]:
    for chosen, flash in product(request.chosen(), request.flashes()):
        if chosen["policy"] == "full":
            continue  # always there
        row = Row(test, "bounded", flash, 0, n_prompt=n_prompt, n_predict=longest, **chosen)
        row = replace(row, beta=request.beta, budget=request.budget)
        yield replace(row, cells=sizes_of(row, request.compute, model).capacity)


def _check_depth(depth: int, n_prompt: int) -> None:
    if depth < n_prompt:
        raise UsageError(
            f"-d {depth} lies within the prompt of {n_prompt} tokens: give -d {n_prompt} or more, "
            "or a shorter prompt (-p)"
        )


def _both_paths(request: Request, row: Row) -> Iterator[Row]:
    return (replace(row, flash=flash) for flash in request.flashes(FLASH))


def _check_library(folder: str) -> None:
    names: Sequence[str] = ()
    try:
        names = os.listdir(folder)
    except OSError as err:
        raise UsageError(f"--stock {folder}: {err.strerror}") from None
    if not any(Path(name).name.startswith(("libllama.", "llama.")) for name in names):
        raise UsageError(
            f"--stock {folder}: there is no libllama in it: make one with "
            "scripts/build_native.py --stock"
        )
