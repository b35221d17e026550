r"""Final answers in LaTeX: what is in the last ``\boxed{...}``, and when two are the same.

Two answers are the same if they are equal after `normalize` or are the same number. Layout, units,
currencies, degrees and the ways to write a fraction make no difference; the order of a list and
algebraic form do: nothing is computed.
"""

from __future__ import annotations

import re
from fractions import Fraction

_LONGEST = 1000
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_UNITS = (
    "(?:square |cubic )?(?:cm|mm|km|m|ft|feet|foot|in|inch|inches|yards?|miles?|mph|degrees?|deg"
    "|dollars?|cents?|units?|percent|hours?|minutes?|seconds?|days?|weeks?|years?|grams?|kg|points?)"
)
_POWER = r"(?:\^\s*\{?[23]\}?)?"
Rule = tuple[re.Pattern[str], str]


def _rules(*pairs: tuple[str, str]) -> list[Rule]:
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


_LAYOUT = _rules(
    (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-z])", ""),
    (r"(?<!\\)\\[!,;:> ]|\\q?quad|~", " "),
    (r"\\[dt]frac(?![a-z])", r"\\frac"),
    (r"\^\s*\\circ|\^\s*\{\s*\\circ\s*\}|\\degree|°", ""),
    (r"\\[$%]|[$%£€]|\{,\}(?=[0-9])", ""),
    # units: any words in \text behind a number, plain words from the list
    (rf"(?<=[0-9.}}\s])\\(?:text|mbox|mathrm|textrm)\s*\{{[^{{}}]*\}}{_POWER}\s*$", ""),
    (rf"(?<=[0-9.}}])\s+{_UNITS}{_POWER}\s*\.?\s*$", ""),
    (r"\\(?:text|textbf|textrm|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}", r"\1"),
    (r"\\(?:cdots|dots|ldots)(?![a-z])", "..."),
    (r"\\(?:le|leq|leqslant)(?![a-z])", r"\\le"),
    (r"\\(?:ge|geq|geqslant)(?![a-z])", r"\\ge"),
    (r"\\neq(?![a-z])", r"\\ne"),
)
_FORMS = _rules(
    (r"\s+", ""),
    (r"\\frac([0-9])([0-9])", r"\\frac{\1}{\2}"),
    (r"\\frac([0-9])\{", r"\\frac{\1}{"),
    (r"\\frac(\{[^{}]*\})([0-9a-z])", r"\\frac\1{\2}"),
    (r"\\sqrt([0-9a-z])", r"\\sqrt{\1}"),
    (r"([_^])\{([0-9a-zA-Z])\}", r"\1\2"),
    (r"(?<![0-9a-zA-Z}])\.(?=[0-9])", "0."),
    (r"(?<![0-9.])([0-9]+)/([0-9]+)(?![0-9.])", r"\\frac{\1}{\2}"),
    # x = 5 and x \in [0, 1]: the variable is in the question
    (r"^[a-zA-Z](?:=|\\in(?![a-z]))(?=.)", ""),
    (r"\.+$", ""),
    (r"^\(([A-E])\)$", r"\1"),
)
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?")
_VALUE = re.compile(
    r"(-?)(?:\\frac\{(-?[0-9]{1,99})\}\{([0-9]{1,99})\}|([0-9]{1,99}(?:\.[0-9]{0,99})?))"
)


def boxed(text: str) -> str | None:
    r"""Return what the last ``\boxed{...}`` holds that is closed; None if there is none.

    What is longer than 1000 characters is no answer.
    """
    for match in reversed(list(_BOX.finditer(text))):
        start = match.end()
        if text[start : start + 1] != "{":
            word = re.match(r"[^\s$.,]+", text[start:])
            if word:
                return word[0]
            continue
        depth = 0
        for end in range(start, min(len(text), start + _LONGEST)):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            if not depth:
                return text[start + 1 : end]
    return None


def normalize(answer: str) -> str:
    """Return an answer without what makes no difference."""
    for pattern, replacement in _LAYOUT:
        answer = pattern.sub(replacement, answer)
    if _THOUSANDS.fullmatch(answer.strip()):
        answer = answer.replace(",", "")
    for pattern, replacement in _FORMS:
        answer = pattern.sub(replacement, answer)
    return answer


def same(a: str, b: str) -> bool:
    """Whether two answers are the same."""
    a, b = normalize(a), normalize(b)
    value = _number(a)
    return bool(a) and (a == b or (value is not None and value == _number(b)))


def _number(answer: str) -> Fraction | None:
    match = _VALUE.fullmatch(answer)
    if not match or (match[3] and not int(match[3])):
        return None
    value = Fraction(int(match[2]), int(match[3])) if match[3] else Fraction(match[4])
    return -value if match[1] else value
