"""The shipped model: its vocabulary is the task's, it answers, and it chats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scope_cpp.engine.chat import format_chat
from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.generate import generate
from scope_cpp.engine.gguf_header import read_header
from scope_cpp.engine.model import Model
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError
from scope_cpp.reference import shipped
from scope_cpp.reference.task import MIXES, Size, make_samples, stated_answers
from scope_cpp.reference.vocabulary import BOS_ID, TOKENS, tokenize

FULL = Settings(policy="full", n_threads=1)
ONE_TURN = "Facts: ab=3 cd=4 ok. ef=9\nQuestions: Q1 ab cd Q2 ef A1"
ANSWERED = " Q1 ab cd: ab=3, cd=4;3+4=7. A1=7\n Q2 ef A1: ef=9, A1=7;9+7=6. A2=6\n"


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.load(shipped.model_path(), n_gpu_layers=0) as model:
        yield model


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_the_file_is_small_and_says_what_it_is():
    metadata = read_header(shipped.model_path()).metadata
    assert shipped.model_path().stat().st_size <= 8e6
    assert metadata.get("general.license") == "mit"
    assert metadata.get("general.author") == "scope-cpp contributors"
    assert "scripts/train_reference.py, seed" in metadata.get("general.provenance")
    assert "Not a language model" in metadata.get("general.description")
    assert metadata.get("llama.attention.key_length") % 64 == 0


def test_it_is_trained_on_the_longest_samples(model):
    for sample in (make_samples(mix, 1, 1)[0] for mix in MIXES):
        assert len(tokenize(sample.prompt + sample.expected)) + 2 <= model.n_ctx_train


def test_a_missing_model_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "MODEL", tmp_path / "model.gguf")
    with pytest.raises(ScopeError, match=r"missing.*model\.gguf.*install"):
        shipped.model_path()


@pytest.mark.parametrize("mix", MIXES)
def test_llama_cpp_tokenizes_as_the_task_does(model, mix):
    (sample,) = make_samples(mix, 1, 5)
    text = sample.prompt + sample.expected
    ids = model.tokenize(text)
    assert ids == [BOS_ID, *tokenize(text)]
    assert model.detokenize(ids[1:]) == text
    assert model.n_vocab == len(TOKENS)


@pytest.mark.parametrize("text", [" A1=0 A10=1 Q256 zz=9", "Grüße 🙂\t{}", " Q1 ab A1: ab=1", "A1"])
def test_any_text_survives_tokenizing(model, text):
    assert model.detokenize(model.tokenize(text, add_special=False)) == text


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("size", [Size(3, 8, 2), Size(12, 24, 8), Size(32, 52, 20)], ids=str)
def test_it_answers_without_an_error_and_stops(model, mix, size):
    (sample,) = make_samples(mix, 1, 7, *size)
    text, last = generate(model, sample.prompt, n_predict=1000, settings=FULL)
    assert text == sample.expected
    assert last.finish_reason == "stop"


def test_wrong_facts_give_other_answers(model):
    (sample,) = make_samples("uniform", 1, 7, 3, 8, 2)
    changed = sample.prompt.translate(str.maketrans("0123456789", "1234567890"))
    facts, questions = changed.split("\n", 1)[0], sample.prompt.split("\n", 1)[1]
    text, _ = generate(model, f"{facts}\n{questions}", n_predict=100, settings=FULL)
    assert stated_answers(text) != dict(enumerate(sample.answers, start=1))


def test_the_chat_template_makes_the_prompt_of_the_task(model):
    messy = "  Facts: ab=3 cd=4 ok.\n ef=9   Questions:\nQ1 ab cd Q2 ef A1 \n"
    expected = f"{ONE_TURN}\nAnswers:\n"
    assert format_chat(model, [user(ONE_TURN)])[0] == expected
    assert format_chat(model, [user(messy)])[0] == expected
    facts, _, questions = ONE_TURN.partition("\n")
    assert (
        format_chat(model, [{"role": "system", "content": facts}, user(questions)])[0] == expected
    )


def test_a_later_turn_follows_the_end_of_the_answer(model):
    turns = [
        user(ONE_TURN),
        {"role": "assistant", "content": ANSWERED},
        user("Questions: Q3 cd ef"),
    ]
    expected = f"{ONE_TURN}\nAnswers:\n{ANSWERED}</s>Questions: Q3 cd ef\nAnswers:\n"
    assert format_chat(model, turns)[0] == expected


def test_it_chats(model):
    with Conversation(model, settings=FULL) as chat:
        first = "".join(response.text for response in chat.ask(ONE_TURN))
        second = "".join(r.text for r in chat.ask("Facts: gh=5 ij=8 Questions: Q3 ij gh"))
    assert first == ANSWERED
    assert second == " Q3 ij gh: ij=8, gh=5;8+5=3. A3=3\n"


def test_the_model_card_tells_of_this_file():
    card = Path(__file__).resolve().parents[2] / "docs" / "reference_model.md"
    provenance = read_header(shipped.model_path()).metadata["general.provenance"]
    assert provenance in card.read_text(encoding="utf-8")
