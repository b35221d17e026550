"""The reference task: its samples are what they say, and training never sees them."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from scope_cpp.reference import vocabulary
from scope_cpp.reference.task import (
    HELD_OUT,
    MIXES,
    ReferenceSample,
    make_samples,
    read_samples,
    stated_answers,
    stream,
    write_samples,
)
from scope_cpp.reference.vocabulary import detokenize, tokenize

SMALL = {"n_questions": 20, "n_facts": 30, "n_filler": 6}


def small(mix: str = "uniform", n: int = 1, seed: int = 1, **sizes: int) -> list[ReferenceSample]:
    return make_samples(mix, n, seed, **(SMALL | sizes))


def solve(prompt: str) -> list[int]:
    """Answer a prompt from its text alone."""
    facts_text, _, questions = prompt.partition("Questions:")
    known = {key: int(value) for key, value in re.findall(r"(\w+)=(\d)", facts_text)}
    for label, first, second in re.findall(r"Q(\d+) (\w+) (\w+)", questions):
        known[f"A{label}"] = (known[first] + known[second]) % 10
    return [known[f"A{i}"] for i in range(1, questions.count(" Q") + 1)]


@pytest.mark.parametrize("mix", MIXES)
def test_answers_follow_from_the_prompt(mix):
    for sample in small(mix, n=5):
        assert list(sample.answers) == solve(sample.prompt)
        assert stated_answers(sample.expected) == dict(enumerate(sample.answers, start=1))


def test_the_output_restates_looks_up_adds_and_answers():
    (sample,) = small(n_questions=1, n_facts=2, n_filler=0)
    keys = dict(re.findall(r"(\w+)=(\d)", sample.prompt))
    first, second = re.findall(r"Q1 (\w+) (\w+)", sample.prompt)[0]
    a, b = keys[first], keys[second]
    total = (int(a) + int(b)) % 10
    worked = f" Q1 {first} {second}: {first}={a}, {second}={b};{a}+{b}={total}. A1={total}\n"
    assert sample.expected == worked


@pytest.mark.parametrize("mix", MIXES)
def test_first_operands_and_keys_are_distinct(mix):
    for sample in small(mix, n=5, n_questions=30):
        firsts = re.findall(r" Q\d+ (\w+)", sample.prompt)
        facts = re.findall(r"(\w+)=", sample.prompt)
        assert len(set(firsts)) == 30 and len(set(facts)) == 30


@pytest.mark.parametrize("mix", MIXES)
def test_questions_refer_to_earlier_answers_only(mix):
    for sample in small(mix, n=5):
        asked = re.findall(r" Q\d+ \w+ (\w+)", sample.prompt)
        for number, (operand, refers) in enumerate(zip(asked, sample.refers, strict=True), start=1):
            assert refers < number
            assert operand == f"A{refers}" if refers else operand.islower()


def test_hubs_are_four_early_answers_that_vary():
    hubs = []
    for sample in make_samples("hubs", 6, 1):
        counts = Counter(refers for refers in sample.refers if refers)
        top = [refers for refers, _ in counts.most_common(4)]
        assert 0.4 < counts.total() / 228 < 0.6
        assert sum(counts[refers] for refers in top) > 0.75 * counts.total()
        assert max(top) <= 228 // 8
        hubs.append(frozenset(top))
    assert len(set(hubs)) == 6


def test_uniform_spreads_a_quarter():
    counts = Counter(r for sample in make_samples("uniform", 6, 1) for r in sample.refers if r)
    assert 0.2 < counts.total() / (6 * 228) < 0.3
    assert max(counts.values()) < 0.1 * counts.total()


def test_the_default_has_four_thousand_tokens_of_output():
    (sample,) = make_samples("uniform", 1, 1)
    assert len(tokenize(sample.expected)) == 18 * 228 > 4096


def test_samples_depend_on_seed_number_and_mix_only():
    five = small(n=5)
    assert five[:3] == small(n=3)
    prompts = {s.prompt for mix in MIXES for seed in (1, 2) for s in small(mix, n=5, seed=seed)}
    assert len(prompts) == 20
    assert len({s.id for mix in MIXES for seed in (1, 2) for s in small(mix, 5, seed)}) == 20


def test_a_sample_is_the_same_on_every_machine():
    (sample,) = small(n_questions=2, n_facts=3, n_filler=1)
    assert sample.prompt == ("Facts: uw=1 gz=3 so. ai=6\nQuestions: Q1 gz gz Q2 ai gz\nAnswers:\n")


def test_streams_of_different_splits_differ():
    names = (1, 2, "x")
    drawn = [stream(split, *names).random() for split in (HELD_OUT, "training", "training plan")]
    assert len(set(drawn)) == 3
    with pytest.raises(ValueError, match="slash"):
        stream(f"{HELD_OUT}/1")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"mix": "other"}, "unknown mix"),
        ({"n_questions": 31}, "31 questions about 30 facts"),
        ({"n_questions": 0}, "0 questions"),
        ({"n_questions": 257, "n_facts": 300}, "256"),
        ({"n_facts": 677}, "676|at most"),
        ({"n_filler": -1}, "filler"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        small(**arguments)


def test_the_first_statement_of_an_answer_counts():
    text = " Q1 ab cd: ab=1, cd=2;1+2=3. A1=3\n Q2 ab A1: ab=1, A1=3;1+3=4. A2=4\n x. A1=9. A3=12"
    assert stated_answers(text) == {1: 3, 2: 4}


def test_samples_survive_a_file(tmp_path):
    samples = small("hubs", n=3)
    write_samples(tmp_path / "samples.jsonl", samples)
    assert read_samples(tmp_path / "samples.jsonl") == samples


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"prompt": "x"}', '{"prompt": "", "mix": "", "expected": "", "answers": []}'],
)
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "samples.jsonl"
    write_samples(path, small())
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"samples\.jsonl, line 2"):
        read_samples(path)


def test_files_of_other_makers_are_read(shared_dir):
    samples = read_samples(shared_dir / "data" / "reference_draft_large_samples.jsonl")
    assert len(samples) > 10
    for sample in samples:
        assert list(sample.answers) == solve(sample.prompt)
        assert sum(map(bool, sample.refers)) > 10


@pytest.mark.parametrize("mix", MIXES)
def test_tokens_give_the_text_back(mix):
    (sample,) = make_samples(mix, 1, 3)
    ids = tokenize(sample.prompt + sample.expected)
    assert detokenize(ids) == sample.prompt + sample.expected
    assert min(ids) >= vocabulary.N_SPECIAL + vocabulary.N_BYTES  # pieces only
    assert detokenize(tokenize(text := "Grüße, A1=10 Q300 🙂")) == text


def test_labels_and_digits_stay_apart():
    pieces = [vocabulary.TOKENS[i] for i in tokenize(" A1=0 A10=1 Q256")]
    assert pieces == [" A1", "=0", " A10", "=1", " Q256"]
