"""``scope chat`` without a terminal, and what its commands do."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scope_cli import terminal
from scope_cli.chat import commands, heatmap, lines
from scope_cli.chat.editor import is_open, whole
from scope_cli.chat.files import MOST_BYTES, read_text_file
from scope_cli.chat.loop import run as run_chat
from scope_cli.chat.screen import Plain
from scope_cli.chat.talk import Chat, Notices

from scope_cpp.engine.context import Context
from scope_cpp.engine.conversation import Conversation, Pool
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError

from .conftest import TEMPLATE, Run, assert_refused, spawn

GREEDY = ("--temp", 0, "--budget", 400, "-n", 8)


class Keyboard:
    """Types lines; `defaults` has what each line began with."""

    def __init__(self, lines: Sequence[str | type[BaseException]]) -> None:
        self._lines = iter(lines)
        self.defaults: list[str] = []
        self.labels: list[str] = []
        self.left = ""

    def read(self, label: str, text: str = "") -> str:
        self.labels.append(label)
        self.defaults.append(text)
        line = next(self._lines, EOFError)
        if not isinstance(line, str):
            raise line
        return line


@pytest.fixture
def conversation(tiny: Path) -> Iterator[Conversation]:
    with (
        Model.load(tiny) as model,
        Conversation(
            model,
            settings=Settings(budget=400, n_threads=1),
            sampling=SamplingParams(temp=0, ignore_eos=True),
            n_predict=8,
            warn=lambda line: None,
        ) as talk,
    ):
        yield talk


Talk = Callable[..., tuple[int, Keyboard, str]]


@pytest.fixture
def talk(conversation: Conversation, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Hold the conversation line by line; return exit code, keyboard and stderr."""

    def call(*lines: str | type[BaseException], **more: Any) -> tuple[int, Keyboard, str]:
        keyboard = Keyboard(lines)
        chat = Chat(conversation, Plain(safe=True), Notices(), plain=True, **more)
        code = run_chat(chat, keyboard)  # type: ignore[arg-type]
        return code, keyboard, capsys.readouterr().err

    return call


# -- without a terminal


def test_all_of_stdin_is_one_message(run: Run, tiny: Path) -> None:
    piped = run("chat", tiny, *GREEDY, stdin="two\nlines\n")
    given = run("chat", tiny, *GREEDY, "-p", "two\nlines", "-st")
    plain = run("generate", tiny, "--temp", 0, "-n", 8, stdin="two\nlines\n")
    assert piped.exit_code == given.exit_code == 0
    assert piped.stdout == given.stdout == plain.stdout
    assert "\x1b" not in piped.stdout + piped.stderr


@pytest.mark.parametrize("text", ["", " \n"])
def test_nothing_to_say(run: Run, tiny: Path, text: str) -> None:
    assert_refused(run("chat", tiny, stdin=text), 2, "the prompt is empty")


def test_a_system_message_from_a_file(run: Run, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "system.txt"
    file.write_text("Brief.")
    got = run("chat", tiny, *GREEDY, "-sysf", file, "-p", "Hi")
    assert got.stdout == run("chat", tiny, *GREEDY, "-sys", "Brief.", "-p", "Hi").stdout
    assert got.stdout != run("chat", tiny, *GREEDY, "-p", "Hi").stdout
    assert_refused(run("chat", tiny, "-sysf", file, "-sys", "x", "-p", "Hi"), 2, "leave one out")


def test_a_session_is_taken_up(run: Run, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.scope"
    args = ("chat", tiny, "--session", file)
    first = run(*args, *GREEDY, "-p", "One")
    second = run(*args, "-n", 8, "-p", "Two")
    assert first.exit_code == second.exit_code == 0, second.stderr
    template = TEMPLATE.replace("{% if", "{# #}{% if")
    for flag, value in (("--chat-template", template), ("-ctk", "q8_0")):
        refused = run(*args, "-p", "Three", flag, value)
        assert refused.exit_code == 2
        assert "leave the flag out" in refused.stderr.splitlines()[-1]
    file.write_bytes(b"nonsense")
    assert_refused(run(*args, "-p", "x"), 2, str(file))


@pytest.mark.parametrize(
    ("path", "exit_code", "reason"),
    [
        ("missing/s.scope", 2, "its folder does not exist; make it first"),
        ("folder", 2, "is a directory: name a file in it"),
        ("/dev/null", 2, "is no regular file"),
        ("x" * 300, 2, "File name too long"),
        ("/proc/s.scope", 1, "cannot be written"),
    ],
)
def test_a_session_that_cannot_be_saved_is_refused_before_an_answer(
    run: Run, tmp_path: Path, path: str, exit_code: int, reason: str
) -> None:
    """Before the model is loaded, even: it is none."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "none.gguf").touch()
    result = run("chat", tmp_path / "none.gguf", "--session", tmp_path / path, "-p", "Hi")
    assert_refused(result, exit_code, reason)


def test_a_session_with_a_nul_in_its_name(run: Run, tiny: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('session = "a\\u0000b"')
    assert_refused(run("chat", tiny, "--config", config, "-p", "Hi"), 2, "null byte")


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_session_that_finds_no_room_at_the_end(tiny: Path, run: Run, tmp_path: Path) -> None:
    """The answer is there, the exit code is 1, and the session before it is as it was."""
    import resource

    file = tmp_path / "s.scope"
    assert run("chat", tiny, "--session", file, *GREEDY, "-p", "One").exit_code == 0
    before = file.read_bytes()
    limit = len(before) // 2
    process = spawn(
        "chat", tiny, "--session", file, "-p", "Two",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out
    assert err.splitlines()[-1].startswith(b"error: the session is not saved: ")
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["s.scope"]


def test_the_exit_code_is_that_of_the_last_try_to_save(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: Conversation, path: Path) -> None:
        raise ScopeError("the disk is full")

    saved = Conversation.save
    monkeypatch.setattr(Conversation, "save", full)
    code, _, err = talk("One", session=tmp_path / "s")
    assert code == 1 and "the session is not saved: the disk is full" in err
    monkeypatch.setattr(Conversation, "save", saved)
    assert talk("Two", session=tmp_path / "s")[0] == 0


def test_what_the_engine_refuses_is_one_line(run: Run, tiny: Path) -> None:
    result = run("chat", tiny, "--budget", 100, "-n", 8, "-p", "word " * 200)
    assert result.exit_code == 1
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: this turn needs") and "input line" not in last


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_keeps_what_was_written(tiny: Path) -> None:
    process = spawn("chat", tiny, "--temp", 0, "--budget", 400, "--ignore-eos", "-p", "Hi")
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert first and out.endswith(b"\n")
    assert b"Traceback" not in err


def test_an_answer_without_text_says_why(run: Run, tiny: Path) -> None:
    result = run("chat", tiny, *GREEDY, "-l", "2=1000", "-p", "Hi")
    assert (result.exit_code, result.stdout.strip()) == (0, "")
    assert result.stderr.splitlines()[-1] == (
        "warning: no text was written: the first token, '</s>', ended the output"
    )


# -- commands


def test_parse() -> None:
    assert lines.command("/set temp 0.2 ") == ("set", "temp 0.2")
    assert lines.command("//etc") is None
    assert lines.command("/read this\nand that") is None
    assert lines.message("//etc") == "/etc"
    assert lines.message(lines.line_of_message("/etc")) == "/etc"


@pytest.mark.parametrize(("typed", "near"), [("undoo", "/undo"), ("budgt", "/budget")])
def test_an_unknown_command_names_the_nearest(typed: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"unknown command /{typed}: did you mean.*{near}"):
        commands.find(typed)


def test_every_command_has_help(talk: Talk) -> None:
    _, _, err = talk("/help")
    assert all(f"/{name}" in err for name in commands.COMMANDS)


SHOWN = (
    "/help", "/help policy", "/policy", "/policy streaming-llm", "/show", "/show sampling",
    "/show messages", "/show template", "/show tokens", "/show system", "/set", "/budget", "/cache",
    "/stats", "/undo",
)  # fmt: skip


@pytest.mark.parametrize("width", [30, 45, 59, 60, 61, 72, 80, 100, 120, 200])
def test_no_word_is_broken(talk: Talk, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Lines end between words, whatever a command shows and however wide the terminal is."""
    talk("The state-of-the-art option=value/other words of a message, " + "and so on " * 20)
    monkeypatch.setattr("scope_cli.terminal.is_terminal", lambda: True)
    monkeypatch.setattr(Chat, "width", lambda self: width)
    for line in SHOWN:
        _, _, err = talk(line)
        shown = re.sub(r"\x1b\[\d+m", "", err)
        assert len(shown.split()) > 3, line
        for shown_line in shown.splitlines():
            assert len(shown_line) <= width or len(shown_line.split()) <= 2, shown_line


@pytest.mark.parametrize("width", [30, 60, 100])
def test_what_is_broken_between_words_is_all_there(width: int) -> None:
    """At hyphens and slashes, too, nothing is broken; a table's values stay in their column."""
    text = "name-of-it  how much new cells that are unlike others count/weigh, all in all\n\nnext"
    lines = terminal.broken(text, width).splitlines()
    assert " ".join(lines).split() == text.split()
    assert max(map(len, lines)) <= width
    assert {line[:12].strip() for line in lines[1:-2]} <= {""}, "the column of the values"
    assert terminal.broken("x" * 200 + " y", width).splitlines() == ["x" * 200, "y"]


def test_turns_are_taken_back_and_written_anew(talk: Talk, conversation: Conversation) -> None:
    talk("One", "Two", "/undo", "/regen", "/edit Three")
    roles = [message["content"] for message in conversation.messages if message["role"] == "user"]
    assert roles == ["Three"]
    fresh = conversation.messages[-1]["content"]
    talk("/clear", "Three")
    assert conversation.messages[-1]["content"] == fresh


def test_edit_offers_the_last_message(talk: Talk, conversation: Conversation) -> None:
    _, keyboard, _ = talk("One", "/edit", "Changed")
    assert keyboard.labels[:3] == ["> ", "> ", "edit> "]
    assert keyboard.defaults[2] == "One"
    assert conversation.messages[0]["content"] == "Changed"


def test_what_is_read_goes_before_the_next_message(
    talk: Talk, conversation: Conversation, tmp_path: Path
) -> None:
    file = tmp_path / "a b.txt"
    file.write_text("from the file")
    talk(f'/read "{file}"', "and this", "alone")
    said = [message["content"] for message in conversation.messages if message["role"] == "user"]
    assert said == ["from the file\n\nand this", "alone"]


def test_a_refused_message_is_back_on_the_line(
    talk: Talk, conversation: Conversation, tmp_path: Path
) -> None:
    file = tmp_path / "long.txt"
    file.write_text("word " * 300)
    _, keyboard, err = talk(f"/read {file}", "/etc", "//etc", "/clear", "//etc")
    assert "error: unknown command /etc" in err
    assert "error: this turn needs" in err
    assert ": send a shorter message or give a larger /budget (the message is back" in err
    assert keyboard.defaults[3] == "//etc"
    assert conversation.messages[0]["content"] == "/etc"


def test_what_was_read_and_refused_can_be_taken_off(
    talk: Talk, conversation: Conversation, tmp_path: Path
) -> None:
    file = tmp_path / "long.txt"
    file.write_text("word " * 300)
    _, _, err = talk(f"/read {file}", "Sum it up.", f"/read {file}", "/undo", "Hello")
    assert f"{file}: 1500 characters go before your next message" in err
    assert f"{file}: now 3000 characters of 2 files go before your next message" in err
    assert "error: this turn needs" in err
    assert "what /read took still goes before your next message: /undo takes it off" in err
    assert "taken off: the next message goes without what /read took" in err
    assert [message["content"] for message in conversation.messages][:1] == ["Hello"]


@pytest.mark.parametrize("line", ["/regen", "/undo", "/edit", "/edit x"])
def test_going_back_from_nothing_says_what_to_do(talk: Talk, line: str) -> None:
    _, _, err = talk(line)
    (refused,) = [shown for shown in err.splitlines() if shown.startswith("error: ")]
    assert re.fullmatch(r"error: there is no \w+ that could be [\w ]+: send .+ first.*", refused)


def test_tokens_are_counted(talk: Talk) -> None:
    _, _, err = talk("/show tokens a", "/show tokens ab")
    assert "\n1 token\n" in err and "\n2 tokens\n" in err


@pytest.mark.parametrize("name", [name for name in commands.COMMANDS if name != "exit"])
def test_no_command_without_words_ends_the_chat(talk: Talk, name: str) -> None:
    code, keyboard, err = talk("Hello", f"/{name}", "Again")
    assert code == 0 and len(keyboard.labels) >= 4
    assert "the chat goes on" not in err, "a fault of ours"


def test_a_fault_of_ours_does_not_end_the_chat(
    talk: Talk, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scope_cli.chat.views.sampling", lambda conversation: 1 / 0)
    code, _, err = talk("Hello", "/set", "Again")
    assert code == 0
    told = "error: ZeroDivisionError: division by zero; the chat goes on, /save FILE keeps it"
    assert f"{told}; run with -v for the traceback\n" in err and "Traceback" not in err
    said = [message["content"] for message in conversation.messages if message["role"] == "user"]
    assert said == ["Hello", "Again"]
    code, _, err = talk("/set", verbose=True)
    assert code == 0
    trace, found, rest = err.partition(f"{told}\n")
    assert found and "\nTraceback (most recent call last):\n" in f"\n{trace}"
    assert "in _set" in trace and trace.endswith("ZeroDivisionError: division by zero\n")


def test_the_values_of_sampling(talk: Talk) -> None:
    for line in ("/set", "/show sampling"):
        _, _, err = talk(line)
        assert re.search(r"^temp +0", err, re.MULTILINE)
        assert re.search(r"^n-predict +\d+", err, re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("/set temp hot", "temp is 'hot': give a number"),
        ("/set top_p 2", "top-p is 2.0: give a number within 0 to 1"),
        ("/set tmp 1", "unknown name 'tmp' (did you mean temp"),
        ("/set zzzz 1", "unknown name 'zzzz'; valid are "),
        ("/set top_k x", "top-k is 'x': give a whole number"),
        ("/set temp", "/set temp needs a value"),
        ("/set n 0", "-n 0: give at least 1"),
        ("/set logit-bias x", "--logit-bias x"),
        ("/policy nonsense", "nonsense"),
        ("/policy snapkv", "(snapkv is one of /policy prefill: give /policy prefill=snapkv)"),
        ("/policy prefill=tova", "(tova is one of /policy: give /policy tova)"),
        ("/policy H2O", "(did you mean h2o?)"),
        ("/POLICY h2o", "did you mean /policy"),
        ("/show Settings", "(did you mean settings?)"),
        ("/policy h2o beta9=1", "beta9"),
        ("/budget 3x", "budget '3x' is not understood"),
        ("/budget 5", "the budget is 5: give /budget "),
        ("/show nothing", "valid are settings"),
        ("/heatmap 9", "no layer 9"),
        ("/heatmap 0 9", "no KV head 9"),
        ("/heatmap x", "'x' is no number"),
        ("/load nowhere", "nowhere"),
        ("/save", "needs the name"),
        ("/read", "needs the name"),
    ],
)
def test_refusals_change_nothing(
    talk: Talk, conversation: Conversation, line: str, phrase: str
) -> None:
    talk("One")
    before = conversation.messages, conversation.settings, conversation.sampling
    _, _, err = talk(line)
    (refused,) = [shown for shown in err.splitlines() if shown.startswith("error: ")]
    assert phrase in refused
    assert (conversation.messages, conversation.settings, conversation.sampling) == before


def test_what_is_set(talk: Talk, conversation: Conversation) -> None:
    talk("/set temp 0.5", "/set top-k 7", "/set ignore-eos off", "/set n 3", "/set stop a\\nb")
    params = conversation.sampling
    assert (params.temp, params.top_k, params.ignore_eos) == (0.5, 7, False)
    assert (conversation.n_predict, conversation.stop) == (3, ("a\nb",))
    talk("/set temp default", "/set n default", "/set stop default")
    assert conversation.sampling.temp == SamplingParams().temp
    assert conversation.sampling.top_k == 7
    assert (conversation.n_predict, conversation.stop) == (None, ())


def test_policy_and_budget_change_in_mid_conversation(
    talk: Talk, conversation: Conversation
) -> None:
    _, _, err = talk("One", "/policy h2o granularity=cell", "/budget 500", "Two", "/cache")
    assert conversation.settings.policy == "h2o"
    assert conversation.settings.granularity == "cell"
    assert conversation.cache.capacity == 500
    assert "capacity 500 cells" in err
    assert len([m for m in conversation.messages if m["role"] == "user"]) == 2


def test_statistics_are_true_of_now(talk: Talk, tmp_path: Path) -> None:
    """Of the answer that stands, if one does, and of the memory as it is."""
    file = tmp_path / "s.scope"
    none = "answer      there is none: nothing was asked, or all of it was taken back"
    _, _, err = talk("/stats", "/cache")
    assert err.startswith(none) and " 0.0" not in err and "last turn" not in err
    _, _, err = talk("One", "Two", "/stats", f"/save {file}")
    assert "message     Two\n" in err and "answer      8 tokens in " in err
    _, _, err = talk("/undo", "/stats")
    assert "message     One\n" in err and "answer      8 tokens in " in err
    _, _, err = talk("/regen", "/stats")
    assert re.search(r"prompt      \d+ tokens read again in .* s\n.*\nanswer      8 tokens", err)
    assert "tokens per second" in err and "evicted     nothing" in err
    for typed in (("/undo", "/stats"), ("One", "/clear", "/stats")):
        _, _, err = talk(*typed)
        shown = err[err.index("answer      ") :]
        assert shown.startswith(none + "\ncells now   0 of 400\n") and "tokens" not in shown
    _, _, err = talk(f"/load {file}", "/stats")
    assert "message     Two\n" in err and "answer      8 tokens in " in err


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of what is decoded from now on."""
    lengths: list[int] = []
    decode = Context.decode

    def counting(self: Context, tokens: Sequence[int], *args: Any, **more: Any) -> None:
        lengths.append(len(tokens))
        decode(self, tokens, *args, **more)

    monkeypatch.setattr(Context, "decode", counting)
    return lengths


@pytest.mark.parametrize("budget", [400, 100])
@pytest.mark.parametrize("policy", ["scope-retrieval", "h2o", "scope-slide"])
@pytest.mark.parametrize(
    "typed", [("/regen",), ("/undo", "/regen"), ("/undo", "Three"), ("/edit Three",), ("Three",)]
)
def test_what_is_read_again_is_said(
    talk: Talk,
    conversation: Conversation,
    monkeypatch: pytest.MonkeyPatch,
    budget: int,
    policy: str,
    typed: tuple[str, ...],
) -> None:
    """In the line below an answer, in /stats and by /undo: as many as went through llama.cpp."""
    conversation.set_policy(policy=policy)
    conversation.set_budget(budget)
    conversation.n_predict = 60
    talk("One")
    lengths = count_decoded(monkeypatch)
    talk("Two")
    assert (conversation.stats.evicted > 0) == (budget == 100)
    for line in typed:
        lengths.clear()
        _, _, err = talk(line, "/stats" if line != "/undo" else "/show system")
        if line == "/undo":
            n = sum(lengths)
            told = f"; {n:,} tokens were read again, as cells before it had gone" if n else ""
            assert f"taken back: Two{told}\n" in err
            continue
        read = sum(lengths) - (conversation.stats.n_generated - 1)
        n_prompt = re.search(r"^prompt (\d+) tokens", err, re.MULTILINE)
        again = re.search(r"\b(\d+) tokens read again, [\d.]+ t/s \| generated", err)
        assert sum(int(found[1]) for found in (n_prompt, again) if found) == read
        assert ("prompt not read again" in err) == (read == 0)
        assert ("it was there already" in err) == (read == 0)
        assert again is None or f"{again[1]} tokens read again in " in err


def test_ctrl_c_while_undo_reads_again(
    talk: Talk, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is taken back all the same; what it takes comes with the next answer."""
    conversation.set_policy(policy="h2o")
    conversation.set_budget(60)
    conversation.n_predict = 30
    talk("One", "Two", "Three")
    decode, left = Context.decode, [9]

    def pressing(self: Context, *args: Any, **more: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)
        decode(self, *args, **more)

    monkeypatch.setattr(Context, "decode", pressing)
    code, _, err = talk("/undo", "/stats", "Four")
    assert code == 0
    (told,) = re.findall(r"taken back: Three; (\d+) tokens will be read again", err)
    assert f"{told} tokens read again" in err
    said = [message["content"] for message in conversation.messages if message["role"] == "user"]
    assert said == ["One", "Two", "Four"]


@pytest.mark.parametrize(
    ("ctx_size", "why"),
    [
        (None, "the answer has its longest length"),
        (25, "warning: the text ends here: -c 25 is its longest length"),
    ],
)
def test_one_reason_is_given_for_the_end_of_an_answer(
    tiny: Path, capsys: pytest.CaptureFixture[str], ctx_size: int | None, why: str
) -> None:
    notices = Notices()
    with (
        Model.load(tiny) as model,
        Conversation(
            model,
            settings=Settings(n_threads=1, ctx_size=ctx_size),
            sampling=SamplingParams(temp=0, ignore_eos=True),
            n_predict=8,
            warn=notices.warn,
        ) as conversation,
    ):
        Chat(conversation, Plain(safe=True), notices, plain=True).ask("One")
    *reasons, _ = capsys.readouterr().err.splitlines()
    assert reasons == [why]


def test_save_and_load(talk: Talk, conversation: Conversation, tmp_path: Path) -> None:
    file = tmp_path / "talk.scope"
    _, _, err = talk("One", f"/save {file}", "Two", f"/save {file}", "/clear", f"/load {file}")
    assert "error" not in err
    assert [m["content"] for m in conversation.messages[::2]] == ["One", "Two"]
    other = tmp_path / "mine.txt"
    other.write_text("not to be lost")
    _, _, err = talk(f"/save {other}")
    assert "exists: give another name" in err
    assert other.read_text() == "not to be lost"


def test_the_session_is_saved_at_the_end_too(
    talk: Talk, conversation: Conversation, tmp_path: Path
) -> None:
    file = tmp_path / "talk.scope"
    talk("One", "/clear", session=file)
    conversation.ask("x")
    conversation.load(file)
    assert conversation.messages == []


# -- Ctrl-C


def test_ctrl_c_while_the_prompt_is_read_gives_the_text_back(
    talk: Talk, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(conversation.cache, "read", interrupted)
        code, keyboard, _ = talk("One more")
    assert keyboard.defaults == ["", "One more"]
    assert conversation.messages == []
    assert code == 0


@pytest.mark.parametrize(("presses", "code"), [(1, 0), (2, 130)])
def test_ctrl_c_during_the_answer(
    talk: Talk,
    conversation: Conversation,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    presses: int,
    code: int,
) -> None:
    written = Plain.write

    def press(self: Plain, text: str) -> None:
        written(self, text)
        if text:
            monkeypatch.setattr(Plain, "write", written)
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Plain, "write", press)
    file = tmp_path / "talk.scope"
    left, keyboard, _ = talk("One", session=file)
    assert left == code
    assert len(keyboard.defaults) == (2 if presses == 1 else 1)
    kept = conversation.messages
    assert [message["role"] for message in kept] == ["user", "assistant"]
    assert kept[1]["content"]
    conversation.clear()
    conversation.load(file)
    assert conversation.messages == kept


def test_ctrl_c_twice_at_the_prompt(talk: Talk) -> None:
    code, keyboard, err = talk(KeyboardInterrupt, KeyboardInterrupt, "never")
    assert code == 130
    assert len(keyboard.labels) == 2
    assert "again to leave" in err
    assert talk(KeyboardInterrupt, "One", KeyboardInterrupt)[0] == 0


# -- files and lines


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"\x00\x01\x02", "byte 0 is NUL, as in UTF-16 or in a binary file"),
        ("hi".encode("utf-16"), "it is UTF-16, not UTF-8: save it as UTF-8"),
        (b"caf\xe9", "byte 3 is not UTF-8"),
        (b" \n", "is empty"),
        (b"x" * (MOST_BYTES + 1), "more than 16 MiB"),
    ],
    ids=["binary", "UTF-16", "latin-1", "blank", "huge"],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, phrase: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=phrase):
        read_text_file(file)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        read_text_file(tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        read_text_file(tmp_path / "missing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UsageError, match="no regular file"):
            read_text_file(tmp_path / "pipe")


def test_triple_quotes() -> None:
    assert is_open('"""one\ntwo') and not is_open('"""one\ntwo"""') and not is_open("one")
    assert is_open('"""') and is_open('""""')
    assert whole('"""\none\ntwo\n"""') == "one\ntwo"
    assert whole("bad \udcff byte") == "bad \ufffd byte"


# -- the map


POOLS = [Pool("system", 0, 10, 10, 0), Pool("prompt", 0, 90, 90, 0), Pool("answer", 0, 900, 90, 0)]


@pytest.mark.parametrize("width", [20, 80, 200])
def test_the_map_fits_and_shows_every_position(width: int) -> None:
    kept = np.concatenate([np.ones(100), np.tile([1.0] + [0.0] * 9, 90)])
    text = heatmap.draw("layer 0, KV head 1", kept, POOLS, width).plain
    body, legend = text.rsplit("\n", 1)
    rows = body.split("\n")[1:]
    assert all(len(row) <= width for row in rows)
    assert "10%" in body and "answer 1" in body
    marks = sum(row.count(shade) for row in rows for shade in heatmap.SHADES[0])
    per = 1 if legend.startswith("one mark is a position") else int(legend.split()[3])
    assert marks == sum(-(-pool.n_tokens // per) for pool in POOLS)


def test_marks_of_the_map() -> None:
    kept = np.array([0, 0, 1, 0, 1, 1, 0.5], float)
    assert heatmap.blocks(kept, 2).tolist() == [0, 0.5, 1, 0.5]
    pools = [Pool("prompt", 0, 7, 7, 0)]
    assert "··█·██▒" in heatmap.draw("x", kept, pools, 80).plain
    assert "..#.##+" in heatmap.draw("x", kept, pools, 80, heatmap.SHADES[1]).plain


def test_the_map_is_what_the_conversation_kept(talk: Talk, conversation: Conversation) -> None:
    conversation.n_predict = 60
    conversation.set_budget(40)
    talk("One")
    what, kept = heatmap.choose(conversation, ["1", "0"])
    assert what == "layer 1, KV head 0"
    assert np.array_equal(kept, conversation.kept(1, 0))
    assert 0 < kept.mean() < 1
    _, mean = heatmap.choose(conversation, ["1"])
    both = [conversation.kept(1, 0), conversation.kept(1, 1)]
    assert np.array_equal(mean, np.mean(both, axis=0))


def test_warnings_wait_for_the_end_of_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices()
    with notices.held():
        notices.warn("late")
        assert capsys.readouterr().err == ""
    notices.warn("now")
    assert capsys.readouterr().err == "warning: late\nwarning: now\n"
