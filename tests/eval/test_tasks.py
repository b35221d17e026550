"""Every task: its gold output is worth 1, an empty or adversarial one nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.eval.task import Item, Option, Output, Source, Task
from scope_cpp.eval.tasks import find, tasks
from scope_cpp.reference.task import make_samples, write_samples

FIXTURES = Path(__file__).parent / "fixtures"
FILES = {
    "longgenbench-gsm8k": "longgenbench_numbers.jsonl",
    "longgenbench-mmlu": "longgenbench_choices.jsonl",
    "longgenbench-csqa": "longgenbench_choices.jsonl",
    "longproc-countdown": "longproc/countdown_0.5k.json",
    "longproc-html-to-tsv": "tables/html_to_tsv_0.5k.json",
    "gsm8k": "gsm8k.jsonl",
    "math500": "math500.jsonl",
    "perplexity": "tales.txt",
}
OPTIONS = {
    "gsm8k": ("shots=1",),
    "reference": ("n=2", "questions=8", "facts=10"),
    "needle": ("prompt=300", "output=400"),
    "perplexity": ("tokens=40", "prompt=4"),
}
GENERATING = [name for name in tasks() if name not in ("perplexity", "fidelity")]


def source(name: str, **changes: Any) -> Source:
    file = FILES.get(name)
    fields: dict[str, Any] = {
        "data": FIXTURES / file if file else None,
        "options": OPTIONS.get(name, ()),
        "tokenize": lambda text: list(text.encode()),
    }
    return Source(**{**fields, **changes})


def worked(gold: dict[str, Any], answers: list[str]) -> str:
    return "\n\n".join(
        f"Answer_{n}:\nThe answer is {answer}."
        for n, answer in enumerate(answers, start=gold["first"])
    )


def gold_output(name: str, item: Item) -> str:
    """Return what a model without a fault writes."""
    gold = item.gold
    if name == "reference":
        return "".join(f". A{i}={digit}\n" for i, digit in enumerate(gold["answers"], start=1))
    if name == "longgenbench-gsm8k":
        return worked(gold, [answer.removeprefix("#### ") for answer in gold["answers"]])
    if name.startswith("longgenbench"):
        return worked(gold, [f"({answer})" for answer in gold["answers"]])
    return {
        "longproc-countdown": lambda: gold["procedure"],
        "longproc-html-to-tsv": lambda: f"```tsv\n{gold}```",
        "gsm8k": lambda: f"Some steps.\n#### {gold}",
        "math500": lambda: f"So $\\boxed{{{gold}}}$.",
        "needle": lambda: f" {gold}.",
    }[name]()


def shifted(name: str, items: list[Item]) -> list[str]:
    """Return outputs of the right form with wrong answers."""
    wrong = {
        "reference": "".join(f". A{i}=10\n" for i in range(1, 9)),
        "longproc-countdown": "<Solution>\n1 + 1 = 2\n2 + 2 = 4\n4 + 6 = 10\n</Solution>",
        "longproc-html-to-tsv": "```tsv\nname\tprice\nThe Rose\t€ 4.51\nMint\n```",
        "gsm8k": "#### 0 and not 20, 1250",
        "math500": "It is 1/2 or 90, so \\boxed{2}",
        "needle": "12345, or 1 2 3 4",
    }
    if name == "longgenbench-gsm8k":
        return [worked(item.gold, ["77", "2", "40"]) for item in items]
    if name.startswith("longgenbench"):
        return [worked(item.gold, ["(A) (B) (D)"] * 2) for item in items]
    return [wrong[name]] * len(items)


@pytest.mark.parametrize("name", GENERATING)
def test_gold_outputs_are_worth_1(name: str) -> None:
    task = find(name)
    items = task.items(source(name))

    for scorer in task.scorers:
        if (name, scorer) == ("longgenbench-gsm8k", "authors"):
            continue  # it does not read -4 and 2,500, see test_scorers_longgenbench
        scores = [task.score(i, Output(gold_output(name, i), 0, "eos"), scorer) for i in items]
        assert task.total(scores) == 1, scorer
        assert [score.problems for score in scores] == [()] * len(items)


@pytest.mark.parametrize("name", GENERATING)
def test_wrong_and_empty_outputs_are_worth_nothing(name: str) -> None:
    task = find(name)
    items = task.items(source(name))

    for scorer in task.scorers:
        for outputs in ([""] * len(items), ["\ufffd\u2028\r\n" * 50] * len(items)):
            scores = [
                task.score(item, Output(text, 0, "length"), scorer)
                for item, text in zip(items, outputs, strict=True)
            ]
            assert task.total(scores) == 0
            assert all(score.problems for score in scores)
    scores = [
        task.score(item, Output(text, 0, "eos"), task.scorers[0])
        for item, text in zip(items, shifted(name, items), strict=True)
    ]
    assert task.total(scores) == 0


@pytest.mark.parametrize("name", tasks())
def test_items_are_the_same_from_run_to_run(name: str) -> None:
    items = find(name).items(source(name))

    assert items
    assert find(name).items(source(name)) == items
    assert find(name).items(source(name, limit=1)) == items[:1]
    assert len({item.id for item in items}) == len(items)
    assert all(item.n_predict > 0 or item.forced_tokens for item in items)


@pytest.mark.parametrize("name", ["reference", "needle"])
def test_items_follow_the_seed(name: str) -> None:
    assert find(name).items(source(name, seed=1)) != find(name).items(source(name))


@pytest.mark.parametrize("name", tasks())
def test_unknown_options_list_the_valid_ones(name: str) -> None:
    task = find(name)
    with pytest.raises(UsageError, match=f"'colour=red' of the task {name}: ") as error:
        task.items(source(name, options=("colour=red",)))

    assert all(key in str(error.value) for key in task.options)


@pytest.mark.parametrize(
    ("name", "option", "reason"),
    [
        ("needle", "n=many", "'many' is no whole number"),
        ("needle", "n=0", "must be 1 to 1000"),
        ("needle", "depths=10,101", "must be 0 to 100"),
        ("needle", "places=prompt,sky", "valid are prompt, output"),
        ("needle", "n", "unknown option 'n'"),
        ("reference", "facts=4", "questions about 4 facts"),
        ("longgenbench-csqa", "format=chatml", "valid are llama-3, llama-2, plain"),
        ("perplexity", "prompt=2000", "prompt=1020 or less"),
    ],
)
def test_bad_values_say_what_is_valid(name: str, option: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        find(name).items(source(name, options=(option,)))


def test_tasks_are_found_by_name() -> None:
    with pytest.raises(
        UsageError,
        match=r"unknown task 'gsm' \(did you mean gsm8k\?\): valid are reference, .*needle",
    ):
        find("gsm")
    for name, task in tasks().items():
        assert (name, bool(task.summary)) == (task.name, True)
        assert all(isinstance(option, Option) for option in task.options.values())
        assert ("https://" in task.where) == (name in FILES)


def test_longgenbench_prompts_are_framed_as_the_authors_do() -> None:
    [item] = find("longgenbench-mmlu").items(source("longgenbench-mmlu"))
    system, user = item.messages

    assert item.prompt.startswith("<<SYS>>\n Answer each question step by step, adhering")
    assert "(with answers) about  \n<</SYS>>\n\nExamples: \nQuestion_1: " in item.prompt
    assert item.prompt == f"<<SYS>>\n {system['content']} \n<</SYS>>\n\n{user['content']}"
    assert item.group == "nature"
    assert item.gold == {"answers": ["B", "D"], "first": 2}
    assert item.n_predict == 4096


def test_longgenbench_has_8k_sets_by_their_number_of_questions(tmp_path: Path) -> None:
    questions = "\n".join(f"Question_{n}:\nWhat?" for n in range(6, 86))
    row = {"prompt": f"Following Question: \n{questions}\n\n", "answers": ["E"] * 80}
    data = tmp_path / "any name.jsonl"
    data.write_text(str(row).replace("'", '"'))

    [item] = find("longgenbench-csqa").items(Source(data))

    assert (len(item.gold["answers"]), item.gold["first"], item.n_predict) == (80, 6, 7950)


def test_longgenbench_asks_the_first_questions_only() -> None:
    of = source("longgenbench-mmlu", options=("questions=1", "format=plain"))
    [whole] = find("longgenbench-mmlu").items(
        source("longgenbench-mmlu", options=("format=plain",))
    )

    [item] = find("longgenbench-mmlu").items(of)

    assert whole.prompt.startswith(item.prompt)
    assert item.prompt.endswith("(E) in books\n") and "Question_3:" not in item.prompt
    assert item.gold == {"answers": ["B"], "first": 2}
    assert item.n_predict == 2048
    assert find("longgenbench-mmlu").items(
        source("longgenbench-mmlu", options=("questions=2", "format=plain"))
    ) == [whole]


def test_worked_examples_are_not_asked() -> None:
    items = find("gsm8k").items(source("gsm8k"))

    assert [item.gold for item in items] == ["20", "1,250"]
    assert items[0].prompt == (
        "Question: Ada buys 3 pens at $2. What does she pay?\nAnswer: 3 * 2 = $6\n#### 6\n\n"
        "Question: A jar has 40 beans; half are red. How many are red?\nAnswer:"
    )
    assert len(find("gsm8k").items(source("gsm8k", options=("shots=0",)))) == 3
    with pytest.raises(ScopeError, match="shots=0, or the whole file"):
        find("gsm8k").items(source("gsm8k", options=("shots=3",)))


def test_prompts_of_longproc_are_filled_in() -> None:
    item, _ = find("longproc-countdown").items(source("longproc-countdown"))

    assert item.prompt.startswith("Reach 10 from [1, 2, 3, 4].\n\nFor example:\n# Example\n")
    assert item.prompt.endswith("\n\n  {indented}")
    assert item.prompt.count("# Search Procedure") == 2


def test_pages_are_put_into_prompts() -> None:
    [item] = find("longproc-html-to-tsv").items(source("longproc-html-to-tsv"))

    assert "The page:\n<ul><li>The Rose: € 4.50</li>" in item.prompt
    assert item.prompt.endswith("```tsv\nname\tprice\n{rows}\n```")
    assert (item.id, item.group, item.n_predict) == ("garden-1", "0.5k", 1024)


@pytest.mark.parametrize("data", [None, FIXTURES / "tales.txt"])
def test_needles_are_where_they_should_be(data: Path | None) -> None:
    options = ("prompt=100", "output=120", "n=1") if data else ("prompt=2000", "output=3000")
    for item in find("needle").items(Source(data, options=options)):
        place, form, depth = item.group.split()
        texts = {"prompt": item.prompt, "output": item.forced}
        text = texts.pop(place)
        [other] = texts.values()
        share = text.index(str(item.gold)) / len(text)

        assert str(item.gold) not in other
        assert item.forced.endswith(" is")
        asked = item.forced.rpartition("The number painted")[2]
        assert (text.count(f"The number painted{asked} {item.gold}.") == 1) == (form == "lexical")
        if not data:
            assert abs(share - int(depth[:-1]) / 100) < 0.12


def test_windows_of_a_text() -> None:
    """They are cut from documents put end to end, each tokenized on its own."""
    calls: list[str] = []

    def tokenize(text: str) -> list[int]:
        calls.append(text)
        return [1, *text.encode()]

    options = ("tokens=30", "prompt=5", "windows=2")
    items = find("perplexity").items(source("perplexity", tokenize=tokenize, options=options))
    read = [token for item in items for token in (*item.prompt_tokens, *item.forced_tokens)]

    assert calls[0] == "The first tale is short. It ends here."
    assert read == [token for text in calls for token in [1, *text.encode()]][:60]
    assert [len(item.prompt_tokens) for item in items] == [5, 5]
    assert all((item.prompt, item.forced, item.n_predict) == ("", "", 0) for item in items)


def test_a_short_text_has_fewer_windows() -> None:
    warnings: list[str] = []
    task = find("perplexity")

    assert len(task.items(source("perplexity", warn=warnings.append))) == 3
    assert "enough for 3 windows of 40 tokens" in warnings[0]
    with pytest.raises(ScopeError, match="has 126 tokens, a window 1024"):
        task.items(source("perplexity", options=()))
    with pytest.raises(UsageError, match="tokenizer"):
        task.items(source("perplexity", tokenize=None))


def test_documents_beyond_the_vocabulary_are_skipped(tmp_path: Path) -> None:
    path, warnings = tmp_path / "tales.txt", list[str]()
    path.write_text("abcdefgh<|endoftext|>\nab\ncd<|endoftext|>ijklmnop<|endoftext|>a\nb")

    def tokenize(text: str) -> list[int]:
        if "\n" in text:
            raise UsageError("the vocabulary has no line break")
        return list(text.encode())

    task, options = find("perplexity"), ("tokens=8", "prompt=2", "windows=3")
    made = Source(path, warn=warnings.append, options=options, tokenize=tokenize)
    items = task.items(made)
    assert [bytes(i.prompt_tokens + i.forced_tokens) for i in items] == [b"abcdefgh", b"ijklmnop"]
    assert "2 documents skipped, the first as the vocabulary has no line break" in warnings[0]
    path.write_text("a\nb<|endoftext|>c\nd")
    with pytest.raises(UsageError, match="the vocabulary has no line break"):
        task.items(made)


def test_perplexity_by_quarter() -> None:
    task = find("perplexity")
    item = task.items(source("perplexity"))[0]
    score = task.score(item, Output("", 8, "", nll=(1, 1, 2, 2, 3, 3, 6, 6)), "strict")

    assert task.lower_is_better
    assert (score.correct, score.value) == ((1, 2, 3, 6), 3)
    assert task.total([score, task.score(item, Output("", 4, "", (1, 1, 1, 1)), "strict")]) == 2
    for nll in ((), (1.0, 2.0, 3.0, float("inf"))):
        with pytest.raises(ScopeError, match="log-likelihoods"):
            task.score(item, Output("", 0, "", nll), "strict")


def test_reference_outputs_are_scored_by_question() -> None:
    task = find("reference")
    item = task.items(source("reference"))[0]
    answers = item.gold["answers"]
    text = f". A1={answers[0]}\n. A1={(answers[0] + 1) % 10}\n. A3={answers[2]}\n. A99=1"
    score = task.score(item, Output(text, 0, "eos"), "strict")

    assert score.correct == (1, 0, 1, 0, 0, 0, 0, 0)
    assert score.problems == (
        "no answer to 6 of 8 questions",
        "answers to 1 questions that were not asked",
    )


def test_referring_questions_are_told_from_direct_ones() -> None:
    task: Task = find("reference")
    items = task.items(source("reference"))

    assert [item.group for item in items] == ["uniform", "hubs"] * 2
    for item in items:
        kinds = [("direct", "referring")[refers > 0] for refers in item.gold["refers"]]
        assert set(kinds) == {"direct", "referring"}
        assert list(task.kinds(item)) == kinds


def test_reference_samples_from_a_file_are_the_same_items(tmp_path: Path) -> None:
    task = find("reference")
    made = make_samples("hubs", 2, seed=0, n_questions=8, n_facts=10)
    write_samples(tmp_path / "samples.jsonl", made)

    items = task.items(Source(tmp_path / "samples.jsonl"))

    assert items == task.items(Source(options=("mixes=hubs", "n=2", "questions=8", "facts=10")))
    with pytest.raises(UsageError, match="leave out --task-option"):
        task.items(Source(tmp_path / "samples.jsonl", options=("n=3",)))
