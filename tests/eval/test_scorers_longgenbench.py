"""The authors' scorer gives their figures; the strict one goes by the question's number."""

from __future__ import annotations

from pathlib import Path

import pytest

from scope_cpp.eval.scorers.authors import by_appearance
from scope_cpp.eval.scorers.files import score_file
from scope_cpp.eval.scorers.gold import Gold
from scope_cpp.eval.scorers.strict import by_number

NUMBERS = Gold(("#### 7", "#### 2,500", "#### -4"), first=9)
CHOICES = Gold(("B", "D"), first=6)


def worked(*answers: str, first: int = 9) -> str:
    return "\n\n".join(
        f"Answer_{n}:\nSome steps.\nThe answer is {answer}."
        for n, answer in enumerate(answers, start=first)
    )


@pytest.mark.parametrize(
    "output",
    [
        worked("7", "2500", "-4"),
        worked("$7", "€2,500.00", "\N{MINUS SIGN}4 degrees"),
        worked("12 - 5 = 7 seats", r"\$2{,}500", r"\boxed{-4}"),
        worked("**7**", "2500 euros", "-4%").replace("Answer_", "### Answer "),
        worked("7", "2500", "-4").replace("answer is ", "answer is:\n"),
        "Answer_11: The answer is -4. Answer_9: The answer is 7. Answer_10: the answer is 2500",
        worked("7", "2500", "-4").replace("\n", "\r\n"),
        worked("7", "2500", "-4") + "\n\nThe answer is.\n1. 3",
        worked("7", "2500", "-4").replace("Some steps", 'The likely answer is "many". Or not'),
    ],
)
def test_strict_reads_numbers_in_any_form(output: str) -> None:
    score = by_number(output, NUMBERS)

    assert (score.correct, score.value, score.problems) == ((1.0, 1.0, 1.0), 1.0, ())


@pytest.mark.parametrize(
    "output",
    [
        worked("(B)", "(D)", first=6),
        worked("B", "option D", first=6),
        worked("[b]", "**(D)** a bird", first=6),
        worked("in water (B)", r"\boxed{\text{D}}", first=6),
        worked("(B), not (A)", "D) a bird", first=6),
    ],
)
def test_strict_reads_options_in_any_form(output: str) -> None:
    assert by_number(output, CHOICES).correct == (1.0, 1.0)


@pytest.mark.parametrize("word", ["A bird", "Because", "a dog", "", "(F)", "B's", "none"])
def test_a_word_is_no_option(word: str) -> None:
    score = by_number(worked(word, "(D)", first=6), CHOICES)

    assert score.correct == (0.0, 1.0)
    assert "no answer to 1 of 2 questions: 6" in score.problems


@pytest.mark.parametrize(
    ("output", "correct", "problem"),
    [
        ("", (0, 0, 0), "no answer found in the output"),
        ("I cannot tell.", (0, 0, 0), "no answer found in the output"),
        (worked("7"), (1, 0, 0), "no answer to 2 of 3 questions: 10, 11"),
        (
            worked("7", "2500", "-4", "12", "13"),
            (1, 1, 1),
            "answers to questions that were not asked (questions are 9 to 11): 12, 13",
        ),
        (
            worked("7", "2500", "-4", first=1),
            (0, 0, 0),
            "answers to questions that were not asked (questions are 9 to 11): 1, 2, 3",
        ),
        (
            worked("7", "2500", "-4") + "\n\n" + worked("8"),
            (1, 1, 1),
            "several answers to one question, the first counts: 9",
        ),
    ],
)
def test_strict_says_what_is_odd(output: str, correct: tuple[int, ...], problem: str) -> None:
    score = by_number(output, NUMBERS)

    assert score.correct == correct
    assert problem in score.problems


def test_the_same_answer_twice_is_not_odd() -> None:
    assert by_number(worked("7", "2500", "-4") + " The answer is -4.", NUMBERS).problems == ()


def test_the_authors_scorer_goes_by_appearance() -> None:
    gold = Gold(("#### 7", "#### 4"), first=9)

    assert by_appearance(worked("7", "4", first=3), gold).value == 1
    assert by_appearance(worked("4", "7"), gold).value == 0
    # "$7" is not found: the 4 counts for the first question
    assert by_appearance(worked("$7", "4"), gold).correct == (0, 0)
    assert by_number(worked("$7", "4"), gold).correct == (1, 1)


def test_the_authors_scorer_cuts_numbers_off() -> None:
    gold = Gold(("#### 70,000", "#### 18"), first=9)

    assert by_appearance(worked("70,000", "18.5"), gold).correct == (1, 1)
    assert by_number(worked("70,000", "18.5"), gold).correct == (1, 0)


@pytest.mark.parametrize("score", [by_appearance, by_number])
@pytest.mark.parametrize("gold", [NUMBERS, CHOICES])
def test_both_score_an_empty_output(score: object, gold: Gold) -> None:
    found = score("", gold)  # type: ignore[operator]

    assert found.value == 0
    assert found.correct == (0.0,) * len(gold.answers)
    assert found.problems == ("no answer found in the output",)


@pytest.fixture(scope="module")
def authors_outputs(shared_dir: Path) -> Path:
    folder = shared_dir / "data/longgenbench/authors_outputs_4K"
    if not folder.is_dir():
        pytest.skip("no outputs of the SCOPE authors in data/longgenbench/authors_outputs_4K")
    return folder


@pytest.mark.parametrize(
    ("run", "task", "authors", "strict"),
    [
        ("ALLKV+None", "gsm8k", 53.2558, 65.969),
        ("ALLKV+None", "csqa", 71.6667, 71.6667),
        ("H2O+h2o", "gsm8k", 26.5891, 30.9302),
        ("H2O+h2o", "csqa", 65.25, 65.0833),
        ("H2O+slide", "gsm8k", 42.5581, 53.7984),
        ("H2O+slide", "csqa", 73.5, 74.25),
    ],
)
def test_the_authors_figures_to_the_last_digit(
    authors_outputs: Path, run: str, task: str, authors: float, strict: float
) -> None:
    path = next(authors_outputs.glob(f"{run}_*")) / f"{task}.jsonl"
    warnings: list[str] = []

    by_authors = score_file(path, None, "authors", None, warnings.append)
    by_number_too = score_file(path, None, "strict", None, warnings.append)

    assert by_authors.task == f"longgenbench-{task}"
    assert by_authors.percent == authors
    assert by_number_too.percent == strict
    assert warnings == []
