"""What was seen, in plain words: every number and every comparison comes from the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scope_cpp.demo.outcome import Outcome
from scope_cpp.engine.budget import format_bytes

APART = 2.0
"""Standard errors by which two rows must differ before one is called better."""

SOLVED = 0.5
"""Accuracy of the full cache below which the model does not solve the task."""


def introduction(outcomes: Sequence[Outcome]) -> str:
    """Say what is about to happen."""
    sheets = outcomes[0].sheets
    first = sheets[0]
    n_questions = len(first.sample.answers)
    n_facts = first.sample.prompt.partition("Questions:")[0].count("=")
    times = {1: "", 2: ", twice"}.get(len(sheets), f", {len(sheets)} times")
    most = max(sheet.n_cells for sheet in sheets)
    return (
        f"A model reads {n_facts} facts and answers {n_questions} questions about them in one long "
        f"text{times}. Each token takes a cell of its memory, the KV cache. The full cache keeps "
        f"all; the others get {most:,} cells for {first.n_prompt:,} tokens of prompt and "
        f"{first.n_output:,} of output."
    )


def story(outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences about the rows that are finished."""
    done = [outcome for outcome in outcomes if outcome.finished]
    full = next((outcome for outcome in done if outcome.row.is_full), None)
    scope = [outcome for outcome in done if outcome.row.is_scope]
    others = [outcome for outcome in done if not (outcome.row.is_full or outcome.row.is_scope)]
    bounded = [*scope, *others]
    if full is not None and bounded and not any(outcome.evicted for outcome in bounded):
        return [_all_fit(full, bounded)]
    told = []
    if full is not None:
        told.append(_about_full(full, bounded))
        if (full.accuracy or 0) < SOLVED:
            told.append("So the model does not solve this task: the rows say little about methods.")
    if scope:
        told.append(_about_scope(scope))
    if others:
        told.append(_about_others(others))
    if scope and others:
        told.append(_verdict(full, scope, others))
    return told


def apart(one: Outcome, other: Outcome) -> bool:
    """Whether the answers tell two rows apart.

    Of the questions that one row alone got right, each is as likely to be the one's as the
    other's if they are equally good (McNemar's test, by its normal approximation).
    """
    pairs = list(zip(one.marks(), other.marks(), strict=False))
    ahead = sum(a and not b for a, b in pairs)
    behind = sum(b and not a for a, b in pairs)
    return abs(ahead - behind) > APART * float(ahead + behind) ** 0.5


def best(outcomes: Sequence[Outcome]) -> Outcome:
    """The row with most right answers, the first of several."""
    return max(outcomes, key=lambda outcome: outcome.n_right)


def _all_fit(full: Outcome, bounded: Sequence[Outcome]) -> str:
    texts = {tuple(text.text for text in outcome.texts) for outcome in [full, *bounded]}
    same = "all texts are the same" if len(texts) == 1 else "yet not all texts are the same"
    return (
        f"Prompt and output fit into the cells of every row ({full.cells:,} were used): nothing "
        f"was given up; {same}, {_percent(full.accuracy)} right with the full cache. A smaller "
        "--beta shows the difference."
    )


def _about_full(full: Outcome, bounded: Sequence[Outcome]) -> str:
    told = (
        f"The full cache took {full.cells:,} cells ({format_bytes(full.kv_bytes)}) and got "
        f"{_percent(full.accuracy)} right"
    )
    if not bounded:
        return told + "."
    most = max(bounded, key=lambda outcome: (outcome.cells, outcome.kv_bytes))
    return told + f"; the others had {most.cells:,} ({format_bytes(most.kv_bytes)})."


def _about_scope(scope: Sequence[Outcome]) -> str:
    """What all of SCOPE's rows kept of the prompt, and the default one of the output."""
    shown = next((outcome for outcome in scope if outcome.row.is_default), scope[0])
    share = min(outcome.kept_of("prompt") or 0.0 for outcome in scope)
    prompt = "the whole prompt" if share == 1 else f"{_share(share)} of the prompt"
    text = shown.texts[0]
    n_written = text.stats.n_generated
    n_kept = round((text.kept_of("output") or 0.0) * n_written)
    low, high = (_percent(pick(o.accuracy or 0.0 for o in scope)) for pick in (min, max))
    right = high if low == high else f"{low[:-1]} to {high}"
    return (
        f"SCOPE kept {prompt}, where the facts are, and {n_kept:,} of {n_written:,} cells it "
        f"wrote: {right} right."
    )


def _about_others(others: Sequence[Outcome]) -> str:
    names = _joined(outcome.row.title for outcome in others)
    kept = _joined(_share(outcome.kept_of("prompt") or 0.0) for outcome in others)
    right = _joined(_percent(outcome.accuracy) for outcome in others)
    late = _joined(_percent(outcome.quarters()[-1]) for outcome in others)
    return f"{names} kept {kept} of the prompt: {right} right, {late} in the last quarter."


def _verdict(full: Outcome | None, scope: Sequence[Outcome], others: Sequence[Outcome]) -> str:
    ours, theirs = best(scope), best(others)
    first, second = sorted((ours, theirs), key=lambda outcome: -outcome.n_right)
    told = (
        f"Of {ours.n_questions} answers {first.row.title} got {first.n_right} right, "
        f"{second.row.title} {second.n_right}"
    )
    if not apart(ours, theirs):
        told += " (no clear difference)"
    elif first is theirs:
        told += ": SCOPE is not the best here"
    if full is None:
        return told + "."
    clear = "" if apart(full, first) else " (no clear difference)"
    return f"{told}; the full cache {full.n_right}{clear}."


def _joined(parts: Iterable[str]) -> str:
    """Parts with "and" between them; one alone where all are the same."""
    distinct = list(parts)
    if len(set(distinct)) == 1:
        return distinct[0]
    return " and ".join(distinct)


def _percent(share: float | None) -> str:
    return f"{share or 0:.0%}"


def _share(share: float) -> str:
    """In per cent; neither all nor nothing is said where it is not so."""
    percent = round(100 * share)
    if percent == 0 and share > 0:
        return "less than 1%"
    if percent == 100 and share < 1:
        return "99%"
    return f"{percent}%"
