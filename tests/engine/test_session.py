"""A conversation saved and loaded: it goes on as if nothing had been, or is refused untouched."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.model import Model
from scope_cpp.engine.session_file import SessionFile, write
from scope_cpp.engine.session_state import export_state
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError
from tests.conftest import Tiny
from tests.engine.session_child import AFTER, BEFORE, THREADS, open_conversation, tokens

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.filterwarnings("ignore:beta2 = .* is below"),
    pytest.mark.filterwarnings("ignore:the model has no chat template"),
]

# sampling, settings; every one but "full" evicts before and after it is saved
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "slide": ({}, {"budget": 250}),
    "drawn": ({"temp": 0.9, "seed": 7}, {"budget": 250}),
    "drawn without a seed": ({"temp": 0.9}, {"budget": 250}),
    "penalties": ({"repeat_penalty": 1.3}, {"budget": 250}),
    "h2o": ({}, {"policy": "h2o", "budget": 200}),
    "streaming": ({}, {"policy": "streaming-llm", "budget": 200}),
    "discontinuous": ({}, {"policy": "scope-discontinuous", "budget": 250}),
    "whole cells": ({}, {"budget": 250, "granularity": "cell"}),
    "thinned prompts": ({}, {"prefill": "snapkv", "budget": 190}),
    "q8_0": ({}, {"budget": 250, "type_k": "q8_0", "type_v": "q8_0"}),
    "full": ({}, {"policy": "full", "budget": 600}),
    "ahead": ({}, {"policy": "scope-foresight", "budget": 250, "options": ["ahead=20"]}),
    "unlike": ({}, {"policy": "scope-foresight", "budget": 250, "options": ["ahead=0"]}),
    "ahead, of whole cells": (
        {},
        {
            "policy": "scope-foresight",
            "budget": 250,
            "granularity": "cell",
            "options": ["ahead=9", "score=none"],
        },
    ),
    "records": ({}, {"policy": "scope-retrieval", "budget": 200}),
    "h2o, ahead": ({}, {"policy": "h2o", "budget": 200, "options": ["ahead=9"]}),
    "no flash attention": ({}, {"policy": "full", "budget": 600, "flash_attn": "off"}),
}


@pytest.fixture(scope="module")
def path(tiny: Tiny) -> Path:
    return tiny(n_ctx_train=4096)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with Model.load(path) as model:
        yield model


def begun(model: Model, case: str, **more: Any) -> Conversation:
    """A conversation of a case, after the first turns."""
    sampling, fields = CASES[case]
    conversation = open_conversation(model, sampling, **{**fields, **more})
    for text in BEFORE:
        tokens(conversation, text)
    return conversation


def resume(model: Model, path: Path) -> Conversation:
    return Conversation.resume(model, path, compute=Settings(**THREADS))


def followed(conversation: Conversation) -> list[Any]:
    """What comes next: tokens, bit by bit the last logits, and where every row is."""
    written = [tokens(conversation, text) for text in AFTER]
    logits = conversation.context.logits().tobytes()
    return [written, logits, conversation.cache.positions().tobytes(), conversation.messages]


def held(conversation: Conversation) -> Any:
    """All that a conversation holds, in plain values."""
    meta, arrays = export_state(conversation)
    values = vars(conversation.settings), vars(conversation.sampling), conversation.stop
    parts = {name: (array.shape, array.tobytes()) for name, array in arrays.items()}
    return json.dumps(meta), parts, values, conversation.template, conversation.n_predict


# going on


def child(what: str, folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    cases = [[str(path), *CASES[name]] for name in CASES if name != "drawn without a seed"]
    command = [sys.executable, "-m", "tests.engine.session_child", what, str(folder)]
    return subprocess.run(
        [*command, json.dumps(cases)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.host_only("its children compute in main memory, which rounds otherwise")
def test_saved_killed_and_continued_by_another_process(
    path: Path, model: Model, tmp_path: Path
) -> None:
    assert child("save", tmp_path, path).returncode == -signal.SIGKILL
    result = child("resume", tmp_path, path)
    assert result.returncode == 0, result.stderr
    expected = []
    for name in CASES:
        if name != "drawn without a seed":
            with begun(model, name) as conversation:
                expected.append([tokens(conversation, text) for text in AFTER])
    assert json.loads(result.stdout) == expected


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_conversation_goes_on_bit_by_bit(model: Model, tmp_path: Path, case: str) -> None:
    with begun(model, case) as conversation:
        evicted = conversation.stats.evicted
        conversation.save(tmp_path / "s")
        saved = held(conversation)
        expected = followed(conversation)
        if "full" not in case and case != "no flash attention":
            assert evicted and conversation.stats.evicted
    with resume(model, tmp_path / "s") as again:
        assert held(again)[:2] == saved[:2]
        assert followed(again) == expected


@pytest.mark.parametrize("case", CASES)
def test_a_running_conversation_takes_over_what_was_saved(
    model: Model, tmp_path: Path, case: str
) -> None:
    with begun(model, case) as first:
        first.save(tmp_path / "s")
        expected = followed(first)
    sampling, fields = CASES[case]
    with open_conversation(model, {"seed": 99}, **{**fields, "budget": 400}) as second:
        tokens(second, "something else")
        replaced = second.context
        second.load(tmp_path / "s")
        assert replaced.closed  # its cells are free
        assert second.stats.cells_capacity == fields["budget"]
        assert followed(second) == expected


def test_a_running_conversation_warns_as_before(model: Model, tmp_path: Path) -> None:
    with open_conversation(model, {}, budget=300) as first:
        first.save(tmp_path / "s")
    lines: list[str] = []
    with open_conversation(model, {}, budget=400) as second:
        second.warn = lines.append
        second.load(tmp_path / "s")
        second.set_policy(policy="scope-slide", options=("beta1=8", "beta2=8"))
    (line,) = lines
    assert line.startswith("beta2 = 8 is below")


CHANGES: dict[str, Callable[[Conversation], object]] = {
    "regenerate": lambda conversation: list(conversation.regenerate()),
    "edit": lambda conversation: list(conversation.edit("to be")),
    "undo": lambda conversation: conversation.undo(),
    "undo twice": lambda conversation: (conversation.undo(), conversation.undo()),
    "clear": lambda conversation: conversation.clear(),
    "policy": lambda conversation: conversation.set_policy(policy="h2o", options=()),
    "records": lambda conversation: conversation.set_policy(policy="scope-retrieval", options=()),
    "cells": lambda conversation: conversation.set_policy(granularity="cell"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("case", ["slide", "h2o", "ahead", "records"])
def test_what_is_changed_after_loading_is_as_without(
    model: Model, tmp_path: Path, case: str, change: str
) -> None:
    with begun(model, case) as conversation:
        conversation.save(tmp_path / "s")
        CHANGES[change](conversation)
        expected = followed(conversation)
    with resume(model, tmp_path / "s") as again:
        CHANGES[change](again)
        assert followed(again) == expected


@pytest.mark.parametrize("change", CHANGES)
def test_a_conversation_that_was_changed_is_saved_as_it_is(
    model: Model, tmp_path: Path, change: str
) -> None:
    with begun(model, "drawn") as conversation:
        CHANGES[change](conversation)
        conversation.save(tmp_path / "s")
        expected = followed(conversation)
    with resume(model, tmp_path / "s") as again:
        assert followed(again) == expected


def test_rows_evicted_after_loading_are_missed_when_going_back(
    model: Model, tmp_path: Path
) -> None:
    """The point after the prompt was intact when it was saved, and is not after another answer."""
    runs = []
    for loads in (False, True):
        conversation = open_conversation(model, {}, policy="h2o", budget=80)
        answer = conversation.ask(BEFORE[0])
        for _ in range(3):
            next(answer)
        answer.close()
        if loads:
            conversation.save(tmp_path / "s")
            conversation.close()
            conversation = resume(model, tmp_path / "s")
        with conversation:
            for _ in range(2):
                written = [response.token for response in conversation.regenerate()]
                assert conversation.stats.evicted
            runs.append([written, followed(conversation)])
    assert runs[0] == runs[1]


def test_another_draw_after_loading_is_as_without(model: Model, tmp_path: Path) -> None:
    with begun(model, "drawn") as conversation:
        first = [response.token for response in conversation.regenerate()]
        conversation.save(tmp_path / "s")
        expected = [response.token for response in conversation.regenerate()]
    with resume(model, tmp_path / "s") as again:
        assert [response.token for response in again.regenerate()] == expected != first


def test_going_back_after_loading_reads_nothing_anew(model: Model, tmp_path: Path) -> None:
    with begun(model, "slide", budget=900) as conversation:
        conversation.save(tmp_path / "s")
    with resume(model, tmp_path / "s") as again:
        batches = []
        decode = again.context.decode

        def watch(batch: Any, *args: Any) -> None:
            batches.append(len(batch))
            decode(batch, *args)

        again.context.decode = watch  # type: ignore[method-assign]
        again.undo()
        assert batches == []


def test_an_empty_conversation_is_saved_too(model: Model, tmp_path: Path) -> None:
    with open_conversation(model, {}, budget=250) as conversation:
        conversation.save(tmp_path / "s")
        expected = followed(conversation)
    with resume(model, tmp_path / "s") as again:
        assert again.messages == [{"role": "system", "content": "be th"}]
        assert followed(again) == expected


def test_saving_changes_nothing(model: Model, tmp_path: Path) -> None:
    runs = []
    for saves in (False, True):
        with begun(model, "slide") as conversation:
            if saves:
                conversation.save(tmp_path / "s")
            runs.append(followed(conversation))
    assert runs[0] == runs[1]


# refusals


@pytest.fixture(scope="module")
def good(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "s"
    with begun(model, "slide") as conversation:
        conversation.save(path)
    return path


def content(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with SessionFile(path) as file:
        return file.header, {name: file.read(name) for name in file.members}


def rewritten(good: Path, path: Path, change: Callable[[Any, Any], object]) -> None:
    """Write what `change` made of the header and the arrays of `good`, with right digests."""
    header, arrays = content(good)
    change(header, arrays)
    write(path, header, arrays)


def put(*keys: Any, value: Any) -> Callable[[Any, Any], object]:
    """Change that sets one item of the header."""

    def change(header: Any, _: Any) -> None:
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change


def put_array(name: str, index: Any, value: Any) -> Callable[[Any, Any], object]:
    def change(_: Any, arrays: Any) -> None:
        arrays[name][index] = value

    return change


def shift_label(_: Any, arrays: Any) -> None:
    """Give a cell the position of one that was evicted."""
    labels = arrays["labels"]
    gap = int(np.flatnonzero(np.diff(labels) > 1)[0])
    labels[gap] += 1


def drop(name: str) -> Callable[[Any, Any], object]:
    return lambda header, arrays: arrays.pop(name, None) is header.pop(name, None)


def rename_format(version: int) -> Callable[[Any, Any], object]:
    """Change that names the state's format as files did that were saved before native ABI 5."""

    def change(header: Any, _: Any) -> None:
        del header["libraries"]["the state format"]
        header["libraries"]["the eviction ABI"] = version

    return change


@pytest.fixture(scope="module")
def in_its_course(model: Model) -> Iterator[Conversation]:
    """A conversation that lives through all that is refused, and then goes on."""
    with begun(model, "slide") as conversation:
        yield conversation
        with begun(model, "slide") as undisturbed:
            assert followed(conversation) == followed(undisturbed)


@pytest.fixture
def running(in_its_course: Conversation) -> Iterator[Conversation]:
    """The same; the test must leave it bit by bit as it was."""
    before = held(in_its_course)
    yield in_its_course
    assert held(in_its_course) == before


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"policy": "h2o"}, "policy h2o, this conversation has scope-retrieval: give --policy h2o"),
        ({"prefill": "snapkv"}, "prefill snapkv"),
        ({"options": ["heavy=30"]}, "heavy=30 of scope-retrieval"),
        ({"granularity": "cell"}, "granularity cell"),
        ({"type_k": "q8_0"}, "type_k q8_0"),
        ({"type_v": "f32"}, "type_v f32"),
        ({"flash_attn": "on"}, "flash_attn on"),
    ],
)
def test_saved_with_other_settings(
    model: Model, tmp_path: Path, running: Conversation, fields: dict[str, Any], named: str
) -> None:
    with open_conversation(model, {}, **{"budget": 250, **fields}) as other:
        other.save(tmp_path / "s")
    with pytest.raises(UsageError, match=f"was saved with {named}"):
        running.load(tmp_path / "s")
    with resume(model, tmp_path / "s") as conversation:  # it has them from the file
        tokens(conversation, "abc")


@pytest.mark.parametrize("fields", [{"seed": 1}, {"n_layer": 3}])
def test_saved_with_another_model(
    tiny: Tiny, model: Model, tmp_path: Path, running: Conversation, fields: dict[str, Any]
) -> None:
    other_path = tiny(n_ctx_train=4096, **fields)
    with Model.load(other_path) as third, open_conversation(third, {}, budget=250) as other:
        other.save(tmp_path / "s")
    with pytest.raises(UsageError, match="was saved with the model"):
        running.load(tmp_path / "s")
    with pytest.raises(UsageError, match="was saved with the model"):
        resume(model, tmp_path / "s")


NOT_OURS: dict[str, Callable[[Path, Path], object]] = {
    "missing": lambda path, good: None,
    "directory": lambda path, good: path.mkdir(),
    "empty": lambda path, good: path.touch(),
    "device": lambda path, good: path.symlink_to("/dev/zero"),
    "text": lambda path, good: path.write_text("a letter"),
    "cut in the header": lambda path, good: path.write_bytes(good.read_bytes()[:500]),
    "cut at the end": lambda path, good: path.write_bytes(good.read_bytes()[:-1]),
}


@pytest.mark.parametrize("what", NOT_OURS)
def test_a_file_that_is_none(tmp_path: Path, good: Path, running: Conversation, what: str) -> None:
    NOT_OURS[what](tmp_path / "s", good)
    with pytest.raises(UsageError) as error:
        running.load(tmp_path / "s")
    assert str(tmp_path / "s") in str(error.value) and "\n" not in str(error.value)


def test_a_model_is_no_conversation(path: Path, running: Conversation) -> None:
    with pytest.raises(UsageError, match="is a GGUF model"):
        running.load(path)


@given(st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte(
    good: Path, tmp_path: Path, running: Conversation, data: st.DataObject
) -> None:
    changed = bytearray(good.read_bytes())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "s").write_bytes(changed)
    before = held(running)
    with pytest.raises(UsageError):
        running.load(tmp_path / "s")
    assert held(running) == before


# what a file says, with right digests
FORGED: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "other state": (put("libraries", "the state format", value=99), "the state format 99"),
    "older state": (rename_format(3), "the state format 3"),
    "other llama.cpp": (put("libraries", "llama.cpp", value="b1"), "llama.cpp b1"),
    "no libraries": (put("libraries", value={}), "llama.cpp None"),
    "no model": (drop("model"), "its model is missing"),
    "model of a wrong type": (put("model", value=[]), "no table"),
    "settings of a wrong type": (put("settings", "options", value="x"), "its options is 'x'"),
    "policy that is none": (put("settings", "policy", value="x"), "unknown policy 'x'"),
    "unknown setting": (put("settings", "x", value=1), "unknown fields"),
    "sampling out of range": (put("sampling", "top_p", value=7), "top_p is 7"),
    "bias of no token": (put("sampling", "logit_bias", value=[[10**6, 1]]), "names token"),
    "grammar that is none": (put("sampling", "grammar", value="root ::= ("), "grammar"),
    "n_predict 0": (put("n_predict", value=0), "give at least 1"),
    "n_predict true": (put("n_predict", value=True), "its n_predict is"),
    "empty stop": (put("stop", value=[1]), "its stop is"),
    "negative budget": (put("n_cells", value=-5), "budget"),
    "small budget": (put("n_cells", value=9), "."),
    "budget over all memory": (put("n_cells", value=10**12), "are free"),
    "template of a wrong type": (put("template", value=7), "its template is"),
    "no state": (drop("state"), "its state is missing"),
    "no cells": (drop("native"), "its native"),
    "no tokens": (drop("tokens"), "its tokens"),
    "messages of a wrong type": (put("state", "messages", value={}), "its messages"),
    "message without content": (put("state", "messages", 1, value={"role": "user"}), "messages"),
    "content of a wrong type": (put("state", "messages", 1, "content", value=5), "messages"),
    "unknown role": (put("state", "messages", 1, "role", value="x"), "messages"),
    "attempts missing": (put("state", "attempts", value=[]), "attempts"),
    "negative attempt": (put("state", "attempts", 0, value=-1), "attempts"),
    "counters of a wrong type": (put("state", "counters", value=[1.5] * 5), "counters"),
    "few counters": (put("state", "counters", value=[1]), "counters"),
    "negative counter": (put("state", "counters", 3, value=-1), "counters"),
    "huge counter": (put("state", "counters", 3, value=2**40), "counters"),
    "longer than its turns": (put("state", "counters", 0, value=5000), "make no sense"),
    "cells miscounted": (put("state", "stats", "cells_used", value=3), "cells"),
    "statistics of text": (put("state", "stats", "evicted", value="9"), "its evicted is"),
    "huge ring": (put("state", "n_queries", value=10**7), "queries"),
    "no ring": (put("state", "n_queries", value=0), "queries"),
    "another ring": (put("state", "n_queries", value=65), "."),
    "turns of a wrong type": (put("state", "turns", value=[1]), "turns"),
    "turn elsewhere": (put("state", "turns", 1, "start", value=3), "make no sense"),
    "turn of no message": (put("state", "turns", 2, "index", value=3), "turns"),
    "turn without tokens": (put("state", "turns", 1, "lengths", value=[0, 0, 0]), "turns"),
    "turn too long": (put("state", "turns", 1, "lengths", value=[2**50, 0, 0]), "turns"),
    "turn with negative lengths": (put("state", "turns", 1, "lengths", value=[9, -9, 0]), "turns"),
    "more decoded than written": (put("state", "turns", 2, "n_decoded", value=10**6), "turns"),
    "more unread than read": (put("state", "turns", 2, "n_unread", value=10**6), "turns"),
    "settings of no turn": (put("state", "turns", 0, "settings", value=5), "turns"),
    "mark of no turn": (put("state", "turns", 0, "after", value=-1), "turns"),
    "another turn's mark": (put("state", "turns", 0, "after", value=0), "marks"),
    "mark beyond the end": (put("state", "marks", 0, "n_past", value=10**6), "counters"),
    "regions of a wrong type": (put("state", "turns", 0, "regions", value=[[]]), "regions"),
    "region of a strange kind": (
        put("state", "turns", 0, "regions", 0, "kind", value="x"),
        "regions",
    ),
    "region beyond the end": (
        put("state", "turns", 0, "regions", 0, "stop", value=10**9),
        "regions",
    ),
    "other numbers of a row": (put("state", "row", value=["use"]), "with that scope-cpp"),
    "numbers of a row without names": (put("state", "row", value=3), "its row is"),
    "account of a wrong type": (put("state", "accounts", 0, value=[]), "Account"),
    "an account too few": (put("state", "accounts", value=[]), "accounts"),
    "token out of range": (put_array("tokens", 3, 10**6), "tokens"),
    "negative token": (put_array("tokens", 3, -1), "tokens"),
    "negative label": (put_array("labels", 0, -1), "cells"),
    "labels out of order": (put_array("labels", slice(0, 2), [5, 4]), "cells"),
    "label beyond the end": (put_array("labels", -1, 10**6), "cells"),
    "negative position": (put_array("pos", (0, 0, 0), -1), "rows"),
    "position beyond the end": (put_array("pos", (1, 1, 0), 10**6), "rows"),
    "position twice": (put_array("pos", (0, 0, 0), 1), "rows"),
    "score that is none": (put_array("scores", (0, 0, 0), np.nan), "scores"),
    "cell of another label": (shift_label, "cells"),
    "cell header changed": (put_array("native", 40, 7), "."),
    "cell position changed": (put_array("native", slice(100, 3000), 255), "."),
    "no cell at all": (lambda _, arrays: arrays.update(native=arrays["native"][:0]), "."),
    "cells cut": (lambda _, arrays: arrays.update(native=arrays["native"][:-8]), "."),
    "labels as floats": (
        lambda _, arrays: arrays.update(labels=arrays["labels"].astype(np.float32)),
        "labels",
    ),
    "rows of one head": (lambda _, arrays: arrays.update(pos=arrays["pos"][:, :1]), "pos"),
    "rows of fewer cells": (lambda _, arrays: arrays.update(pos=arrays["pos"][..., 1:]), "pos"),
    "scores of fewer cells": (
        lambda _, arrays: arrays.update(scores=arrays["scores"][:, :, 1:]),
        "scores",
    ),
    "mark of fewer cells": (
        lambda header, arrays: (
            header["state"]["marks"][5].update(intact=True),
            arrays.update(mark5=arrays["mark5"][..., 1:]),
        ),
        "marks",
    ),
}


def test_a_file_of_an_earlier_version(model: Model, tmp_path: Path) -> None:
    """The native interface changed since, the format did not."""
    with begun(model, "slide") as conversation:
        conversation.save(tmp_path / "new")
        expected = followed(conversation)
    rewritten(tmp_path / "new", tmp_path / "old", rename_format(4))
    with resume(model, tmp_path / "old") as again:
        assert followed(again) == expected


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_file(
    model: Model, tmp_path: Path, good: Path, running: Conversation, what: str
) -> None:
    change, reason = FORGED[what]
    rewritten(good, tmp_path / "s", change)
    for take in (running.load, lambda path: resume(model, path)):
        with pytest.raises(ScopeError, match=reason) as error:
            take(tmp_path / "s")
        assert str(tmp_path / "s") in str(error.value) and "\n" not in str(error.value)


def no_query(_: Any, arrays: Any) -> None:
    for name in ("queries", "prompt", "output"):
        arrays[f"ahead_{name}"] = arrays[f"ahead_{name}"][:, :, :0]


FORGED_AHEAD: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "no query": (no_query, "queries"),
    "infinite query": (put_array("ahead_queries", (0, 0, 0, 0), np.inf), "queries"),
    "queries of 32 bits": (
        lambda _, arrays: arrays.update(ahead_queries=arrays["ahead_queries"].astype(np.float32)),
        "queries",
    ),
    "total that is none": (put_array("ahead_prompt", (0, 0, 0), np.nan), "queries"),
    "infinite total": (put_array("ahead_output", (0, 0, 0), np.inf), "queries"),
    "no totals": (drop("ahead_prompt"), "ahead_prompt"),
    "fewer totals": (
        lambda _, arrays: arrays.update(ahead_output=arrays["ahead_output"][..., 1:]),
        "ahead_output",
    ),
    "mark of a wrong type": (put("state", "marks", 0, "ahead", value=1), "marks"),
}


@pytest.fixture(scope="module")
def looking_ahead(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ahead") / "s"
    with begun(model, "ahead") as conversation:
        conversation.save(path)
    return path


@pytest.mark.parametrize("what", FORGED_AHEAD)
def test_forged_queries(model: Model, tmp_path: Path, looking_ahead: Path, what: str) -> None:
    change, reason = FORGED_AHEAD[what]
    rewritten(looking_ahead, tmp_path / "s", change)
    with pytest.raises(ScopeError, match=reason) as error:
        resume(model, tmp_path / "s")
    assert str(tmp_path / "s") in str(error.value) and "\n" not in str(error.value)


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from leaves(value[key])


STRANGE = st.sampled_from(
    [None, True, -1, 0, 1, 7, 63, 250, 10**6, 2**31, 2**63, -0.5, 1e300, "", "x", [], {}, [[]]]
)


def survives(model: Model, path: Path) -> None:
    """What is not refused must go on, or say why not."""
    try:
        with resume(model, path) as conversation:
            conversation.set_sampling(conversation.sampling)
            for i, _ in enumerate(conversation.ask("abc")):
                if i == 3:
                    break
            conversation.undo()
    except ScopeError as err:
        assert "\n" not in str(err)


@given(st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[*HealthCheck])
def test_no_forged_header_ends_the_process(
    model: Model, tmp_path: Path, good: Path, data: st.DataObject
) -> None:
    def change(header: Any, _: Any) -> None:
        found = list(leaves(header))
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        container[key] = data.draw(STRANGE)

    rewritten(good, tmp_path / "s", change)
    survives(model, tmp_path / "s")


def signed(native: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A native state with its own digest made right: FNV-1a over words, without the digest."""
    data = native.tobytes()
    value = 0xCBF29CE484222325
    for part in (data[:56], data[64:]):
        padded = part + bytes(-len(part) % 8)
        for word in np.frombuffer(padded, "<u8").tolist():
            value = (value ^ word) * 0x100000001B3 % 2**64
    return np.frombuffer(data[:56] + value.to_bytes(8, "little") + data[64:], np.uint8)


def test_the_digest_of_a_native_state_is_known(good: Path) -> None:
    native = content(good)[1]["native"]
    assert np.array_equal(signed(native), native)


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[*HealthCheck])
def test_no_forged_cells_end_the_process(
    model: Model, tmp_path: Path, good: Path, data: st.DataObject
) -> None:
    """Most changes hit the cells, their positions and sizes; some the rows."""

    def change(_: Any, arrays: Any) -> None:
        native = arrays["native"].copy()
        n_cells = int(native[40:44].view("<u4")[0])
        head = 64 + 16 * n_cells + 100
        word = data.draw(st.integers(0, head // 4) | st.integers(0, native.size // 4 - 1))
        value = data.draw(st.sampled_from([0, 1, 250, 2**31 - 1, 2**31, 2**32 - 1]))
        native[4 * word : 4 * word + 4].view("<u4")[0] = value
        arrays["native"] = signed(native)

    rewritten(good, tmp_path / "s", change)
    survives(model, tmp_path / "s")
