"""The chat in a terminal: what the screen and the lines above it hold."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pyte", reason="needs pyte, a terminal emulator")
if os.name != "posix":
    pytest.skip("needs a pseudo terminal", allow_module_level=True)

from .conftest import TEMPLATE
from .pty_screen import Terminal

Open = Callable[..., Terminal]

FLAGS = ("--temp", 0, "--budget", 512, "--ignore-eos")
# synchronized output, wrapping, cursor, clearing, going up, styles
OWN_COMMANDS = {b"2026h", b"2026l", b"7h", b"7l", b"25h", b"25l", b"2004h", b"2004l", b"J", b"A"}
OWN_COMMANDS |= {b"%dA" % n for n in range(1, 24)} | {b"0m", b"2m", b"1m", b"3m", b"36m", b"9m"}
STATUS = re.compile(r"prompt \d+ tokens.*KV", re.DOTALL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def chat(tiny: Path, home: Path) -> Open:
    return lambda *args, **size: Terminal("chat", tiny, *FLAGS, *args, **size)


def squeezed(text: str) -> str:
    return "".join(text.split())


def answer_in(session: Terminal) -> str:
    """The last message as the engine has it."""
    session.line("/show messages")
    session.wait_prompt()
    return session.text().rpartition("[assistant]\n")[2].rpartition("\n>")[0]


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_a_conversation(chat: Open, columns: int) -> None:
    with chat("-n", 60, columns=columns) as session:
        session.line("Hello there")
        session.wait_prompt()
        shown = squeezed(session.text())
        assert shown.count(">Hellothere") == 1
        assert "reading" not in shown
        assert "cells" in shown and "512cells|/help" in shown
        assert len(STATUS.findall(session.text())) == 1
        session.line("/cache")
        session.wait_prompt()
        assert re.search(r"answer 1:? +\d+", session.text())
        session.line("/heatmap 0 1")
        session.wait_prompt()
        assert "layer 0, KV head 1" in " ".join(session.text().split())
        session.send("\x04")
        assert session.exit_code() == 0
        assert all(len(line) <= columns for line in session.lines())


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_the_scrollback_holds_an_answer_once(chat: Open, columns: int) -> None:
    with chat("-n", 600, columns=columns, rows=12) as session:
        session.line("Hello there")
        session.wait_answer("Hello there")
        session.wait_prompt()
        before, _, rest = session.text().partition("> Hello there\n")
        shown = re.split(r"\nwarning: |\nthe answer has", rest)[0]
        assert len(shown) > 500
        text = answer_in(session)
        assert letters(shown) == letters(text)


def letters(text: str) -> str:
    """Letters and digits: Markdown takes none of them away and adds none."""
    return "".join(c for c in text if c.isascii() and c.isalnum())


def test_a_terminal_that_grows_during_the_answer(chat: Open) -> None:
    with chat("-n", 1500) as session:
        session.line("Hello there")
        session.wait_answer("Hello there")
        for columns, rows in ((100, 30), (120, 40)):
            session.wait_written()
            session.resize(columns, rows)
        session.wait_prompt()
        shown = re.split(r"\nwarning: ", session.text().partition("> Hello there\n")[2])[0]
        assert letters(shown) == letters(answer_in(session))


def test_a_terminal_that_shrinks_during_the_answer(chat: Open) -> None:
    with chat("-n", 1500, columns=100) as session:
        session.line("Hello there")
        session.wait_answer("Hello there")
        for columns, rows in ((80, 20), (40, 12)):
            session.wait_written()
            session.resize(columns, rows)
        session.wait_prompt()
        shown = session.text().partition("\nwarning: position")[0]
        # the emulator forgets what a smaller window can't hold: the end alone can be compared
        text = letters(answer_in(session))
        assert letters(shown).endswith(text[-100:])
        assert letters(shown).count(text[-40:]) == 1


def test_no_command_to_the_terminal_comes_from_the_model(chat: Open) -> None:
    # the tiny model's vocabulary has every byte: escape, bell, and the C1 commands
    bias = [f"{3 + byte}=+100" for byte in (0x1B, 0x07, 0x9B, 0x08)]
    args = [part for one in bias for part in ("--logit-bias", one)]
    with chat("-n", 40, "--temp", 1, "--top-k", 4, "-s", 1, *args) as session:
        session.line("Hello")
        session.wait_prompt()
        assert "␛" in session.text()
        answer = session.raw.partition(b"reading")[2].partition(b"the answer has")[0]
        assert not {0x07, 0x08, 0x9B} & set(answer.decode().encode("latin-1", "ignore"))
        # what is left are the commands of the chat itself
        assert set(re.findall(rb"\x1b\[\??(\d*[A-Za-z])", answer)) <= OWN_COMMANDS


@pytest.mark.parametrize("colours", [True, False])
def test_undo_shows_that_it_reads_again(chat: Open, colours: bool) -> None:
    env = {} if colours else {"NO_COLOR": "1"}
    with chat("-n", 60, "--budget", 100, "--policy", "h2o", env=env) as session:
        session.line("Hello there")
        session.line("And then")
        session.line("/undo")
        session.wait_prompt()
        shown = " ".join(session.text().split())
        (n,) = re.findall(r"taken back: And then; (\d+) tokens were read again", shown)
        assert f"reading {n} tokens again…".encode() in session.raw
        # without colours nothing is drawn in place: the line stays
        assert ("tokens again…" in shown) == (not colours)


@pytest.mark.parametrize("columns", [33, 36, 39])
def test_what_stands_below_an_answer_breaks_between_words(chat: Open, columns: int) -> None:
    with chat("-n", 5, columns=columns) as session:
        session.line("Hello")
        session.wait_prompt()
        words = STATUS.findall(session.text())[0].split()
    assert {"generated", "evicted"} < set(words)


def test_ctrl_c_stops_the_answer_and_keeps_it(chat: Open) -> None:
    with chat("-n", -1) as session:
        session.line("Hello")
        session.wait_answer("Hello")
        session.send("\x03")
        session.wait_shown("stopped, what is written stays")
        session.line("/show messages")
        session.wait_prompt()
        assert re.search(r"\[assistant\]\n.*\w", session.text())
        session.send("\x03")
        session.wait_shown("press Ctrl-C again")
        session.send("\x03")
        assert session.exit_code() == 130


def test_ctrl_c_at_the_prompt_directly_after_an_answer_that_was_stopped(chat: Open) -> None:
    with chat("-n", -1) as session:
        session.line("Hello")
        session.wait_answer("Hello")
        session.send("\x03")
        session.wait_prompt()
        session.send("\x03")
        assert session.exit_code() == 130


def test_two_ctrl_c_during_an_answer_leave(chat: Open, home: Path) -> None:
    saved = home / "s.scope"
    with chat("-n", -1, "--session", saved) as session:
        session.line("Hello")
        session.wait_answer("Hello")
        session.signal(signal.SIGSTOP)
        session.signal(signal.SIGINT)
        session.signal(signal.SIGCONT)
        session.wait("stopped")
        session.send("\x03")
        assert session.exit_code() == 130
    assert saved.exists()


def test_a_paste_of_many_lines_is_one_message(chat: Open) -> None:
    lines = [f"line {n}" for n in range(200)]
    with chat("-n", 5, "--budget", 4000) as session:
        session.wait_prompt()
        session.paste("\n".join(lines))
        session.wait_shown("line 199")
        session.send("\r")
        session.wait_prompt()
        session.line("/show messages")
        session.wait_prompt()
        shown = session.text().rpartition("[user]\n")[2]
        assert shown.partition("\n\n[assistant]")[0].split("\n") == lines


def test_triple_quotes_and_alt_enter(chat: Open) -> None:
    with chat("-n", 5) as session:
        session.wait_prompt()
        session.send('"""one\r')
        session.wait_prompt(".")
        session.send('two"""\r')
        session.wait_prompt()
        session.line("three\x1b\rfour")
        session.wait_prompt()
        session.line("/show messages")
        session.wait_prompt()
        shown = session.text()
        assert "[user]\none\ntwo\n" in shown
        assert "[user]\nthree\nfour\n" in shown


def test_wide_characters(chat: Open, tiny: Path) -> None:
    said = "日本語のテキスト 😀😀 "
    with chat("-n", 5, columns=20) as session:
        session.line(said * 2)
        session.wait_prompt()
        session.line("/show messages")
        session.wait_prompt()
        assert squeezed(said * 2) in squeezed(session.text())


def test_completion_and_edit_and_unknown_commands(chat: Open) -> None:
    with chat("-n", 5) as session:
        session.wait_prompt()
        session.send("/heat\t")
        session.wait_shown("> /heatmap")
        session.send("\r")
        session.wait_shown("there is nothing in the cache yet")
        session.line("/undoo")
        session.wait_shown("unknown command /undoo: did you mean /undo")
        session.line("first words")
        session.line("/edit")
        session.wait_prompt("edit> first words")
        session.send(" changed\r")
        session.line("/show messages")
        session.wait_prompt()
        shown = session.text().rpartition("/show messages")[2]
        assert shown.count("[user]\nfirst words changed") == 1
        assert shown.count("[user]") == 1


def test_a_message_may_begin_with_a_slash(chat: Open) -> None:
    with chat("-n", 5) as session:
        session.line("//etc/hosts")
        session.line("/show messages")
        session.wait_prompt()
        assert "[user]\n/etc/hosts" in session.text()


def test_an_error_gives_the_text_back(chat: Open) -> None:
    with chat("-n", 5, "--budget", 300) as session:
        session.line("words " * 100)
        session.wait_shown("error: this turn needs")
        session.wait_prompt_with("words words")
        session.send("\x03")
        session.line("/show messages")
        session.wait_prompt()
        assert "[user]" not in session.text()


def test_the_history_is_kept_for_its_owner_alone(chat: Open, home: Path) -> None:
    with chat("-n", 5) as session:
        session.line("remember me")
        session.wait_prompt()
        session.send("\x04")
        assert session.exit_code() == 0
    (file,) = home.glob("state/scope-cpp/*")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "remember me" in file.read_text()
    with chat("-n", 5) as session:
        session.wait_prompt()
        session.send("\x1b[A")
        session.wait_shown("> remember me")


def test_a_session_goes_on(chat: Open, home: Path) -> None:
    saved = home / "s.scope"
    with chat("-n", 5, "--session", saved) as session:
        session.line("first words")
        session.wait_prompt()
        session.send("\x04")
        assert session.exit_code() == 0
    with chat("--session", saved) as session:
        session.line("/show messages")
        session.wait_prompt()
        assert "1 turn, " in session.text()
        assert "[user]\nfirst words" in session.text()


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_plain_answers(tiny: Path, home: Path, env: dict[str, str]) -> None:
    with Terminal("chat", tiny, *FLAGS, "-n", 20, "-p", "Hi", "-st", env=env) as session:
        assert session.exit_code() == 0
        assert b"\x1b" not in session.raw


def test_the_template_of_these_tests_is_the_models_own(chat: Open) -> None:
    with chat(columns=200) as session:
        session.line("/show template")
        session.wait_prompt()
        assert squeezed(TEMPLATE) in squeezed(session.text())
