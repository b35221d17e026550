"""The chat itself: read a line, do what it says, show the answer."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scope_cpp.engine.speedup import Growth
from scope_cpp.errors import ScopeError
from scope_cpp.printable import printable

from .. import terminal
from ..interrupt import Interrupts
from ..report import line_of
from . import commands, heatmap
from .frame import keys_kept
from .screen import Screen

if TYPE_CHECKING:
    from rich.text import Text

    from scope_cpp.engine.conversation import Answer, Conversation

    from .editor import Editor

INTERRUPTED = 130

LABEL, EDIT_LABEL = "> ", "edit> "


class Leave(Exception):
    """The chat ends with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Outcome(NamedTuple):
    """What became of a turn.

    Attributes
    ----------
    kept
        Whether there is an answer, whole or in part; if not, the conversation is as before.
    error
        Why there is no whole answer; it has been shown.
    """

    kept: bool
    error: ScopeError | None = None


class Notices:
    """Warnings of the engine: those that come during an answer wait for its end."""

    def __init__(self) -> None:
        self._waiting: list[str] | None = None

    def warn(self, line: str) -> None:
        """Show a warning, now or later."""
        if self._waiting is None:
            terminal.warning(line)
        else:
            self._waiting.append(line)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold warnings back until the block ends."""
        self._waiting = []
        try:
            yield
        finally:
            waiting, self._waiting = self._waiting, None
            for line in waiting:
                terminal.warning(line)


class Chat:
    """A conversation, a screen and a keyboard.

    Parameters
    ----------
    conversation
    screen
        Where answers appear.
    notices
        What the conversation warns through.
    session
        File that the conversation is saved to after each turn.
    plain
        Whether colours are to be left out.
    statistics
        Whether a line of statistics follows each answer.

    Attributes
    ----------
    attached : list of str
        Texts that go before the next message.
    own_files : set of Path
        Files that were saved or loaded here, and may be written over.
    """

    def __init__(
        self,
        conversation: Conversation,
        screen: Screen,
        notices: Notices,
        *,
        session: Path | None = None,
        plain: bool = False,
        statistics: bool = True,
    ) -> None:
        self.conversation, self.screen, self.notices = conversation, screen, notices
        self.session, self.plain, self.statistics = session, plain, statistics
        self.attached: list[str] = []
        self.own_files = set() if session is None else {session}
        self._interrupted = False
        self._unsaved = False
        self._editing = False
        self._growth = Growth()
        self._line = ""  # what the next line begins with

    # -- the two ways to talk

    def single(self, text: str) -> int:
        """Answer one message; return the exit code."""
        try:
            outcome = self.ask(text)
        except Leave as left:
            return left.code
        if outcome.error is not None:
            return outcome.error.exit_code
        return INTERRUPTED if self._interrupted else int(self._unsaved)

    def run(self, editor: Editor, first: str | None = None) -> int:
        """Talk until the user leaves; return the exit code."""
        code = 0
        try:
            if first is not None:
                self.ask(first)
            while True:
                try:
                    self._step(editor)
                except KeyboardInterrupt:  # between two lines
                    self._stopped_at_prompt("")
        except Leave as left:
            code = left.code
        self._save_at_end()
        return code or int(self._unsaved)

    def _step(self, editor: Editor) -> None:
        """Read a line and do what it says."""
        label, line = (EDIT_LABEL if self._editing else LABEL), self._line
        self._line = ""
        try:
            line = editor.read(label, line)
        except EOFError:
            raise Leave(0) from None
        except KeyboardInterrupt:
            self._stopped_at_prompt(editor.left)
            return
        self._interrupted = False
        try:
            with Interrupts() as interrupts:
                self._do(line)
            if interrupts.count:
                self._interrupted = True
        except ScopeError as err:
            terminal.error(str(err))

    def _stopped_at_prompt(self, left: str) -> None:
        if self._interrupted:
            raise Leave(INTERRUPTED)
        self._interrupted, self._editing = True, False
        if not left:
            terminal.note("press Ctrl-C again to leave")

    def _do(self, line: str) -> None:
        if self._editing:
            self._editing = False
            if line.strip():
                self.answer_edited(line)
            return
        command = commands.parse(line)
        if command is not None:
            name, rest = command
            commands.find(name).run(self, rest)
        elif line.strip() or self.attached:
            self.ask(commands.message_of(line))

    # -- answers

    def ask(self, text: str) -> Outcome:
        """Send a message, behind what was attached, and show the answer."""
        message = "\n\n".join([*self.attached, text] if text.strip() else self.attached)
        outcome = self.answer(lambda: self.conversation.ask(message))
        if outcome.kept:
            self.attached.clear()
        else:
            self._line = commands.line_of(text)
        return outcome

    def answer_edited(self, text: str) -> None:
        """Replace the last message and show its answer; taken back, the text is on the line."""
        if not self.answer(lambda: self.conversation.edit(text)).kept:
            self.edit(text)

    def edit(self, text: str) -> None:
        """Let the user change the last message on the next line."""
        self._editing, self._line = True, text

    def answer(self, begin: Callable[[], Answer]) -> Outcome:
        """Show an answer as it is written, and what it came to.

        Raises
        ------
        Leave
            After a second Ctrl-C.
        """
        with Interrupts() as interrupts:
            outcome = self._shown(begin, interrupts)
            if outcome.kept and self.statistics:
                terminal.note(line_of(self.conversation, self._growth))
            if outcome.kept and self.session is not None:
                self._save_quietly(self.session)
        self._interrupted = interrupts.count > 0
        if interrupts.count > 1:
            raise Leave(INTERRUPTED)
        return outcome

    def _shown(self, begin: Callable[[], Answer], interrupts: Interrupts) -> Outcome:
        try:
            with self.notices.held(), keys_kept(self.plain):
                answer = begin()
                error = self._write(answer, interrupts)
        except ScopeError as err:
            terminal.error(str(err))
            return Outcome(False, err)
        kept = bool(answer.text) or answer.finish_reason is not None
        if error is not None:
            terminal.error(str(error))
        elif interrupts.count:
            say = self.note if answer.text.strip() else terminal.note
            say("stopped, what is written stays" if kept else "stopped, nothing was sent")
        elif answer.no_text is not None:
            terminal.warning(f"no text was written: {answer.no_text}")
        elif answer.finish_reason == "length":
            self.note("the answer has its longest length")
        return Outcome(kept, error)

    def _write(self, answer: Answer, interrupts: Interrupts) -> ScopeError | None:
        """Show an answer as it comes; return what kept it from being whole."""
        shown = 0
        error = None
        self.screen.begin("reading the prompt…")
        try:
            with interrupts.raised():
                response = next(answer, None)
            while response is not None:
                self.screen.write(response.text)
                shown += len(response.text)
                self._growth.note(response.stats)
                response = None if interrupts.count else next(answer, None)
        except KeyboardInterrupt:
            pass
        except ScopeError as err:
            error = err
        finally:
            answer.close()
            self.screen.write(answer.text[shown:])
            self.screen.end()
        return error

    # -- what commands use

    def say(self, text: str | Text) -> None:
        """Show what a command has to say, on stderr."""
        if isinstance(text, str):
            print(printable(text), file=sys.stderr, flush=True)
        elif self.plain or not terminal.is_terminal():
            print(text.plain, file=sys.stderr, flush=True)
        else:
            from rich.console import Console

            Console(stderr=True).print(text, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Show a line of minor importance, to people only."""
        if self.statistics:
            terminal.note(text)

    def width(self) -> int:
        """Columns of the terminal."""
        return shutil.get_terminal_size().columns

    def shades(self) -> str:
        """Marks for maps that stderr can take."""
        encoding = (getattr(sys.stderr, "encoding", None) or "ascii").lower()
        return heatmap.SHADES[0 if encoding.startswith("utf") else 1]

    def leave(self, code: int) -> None:
        """End the chat."""
        raise Leave(code)

    def greet(self, model: str) -> None:
        """Say what this is."""
        settings, stats = self.conversation.settings, self.conversation.stats
        decode, _ = settings.policies()
        self.note(f"{model} | {decode.name} | {stats.cells_capacity} cells | /help")
        if self.conversation.messages:
            self.greet_again()

    def greet_again(self) -> None:
        """Say what conversation this is now."""
        asked = sum(message["role"] == "user" for message in self.conversation.messages)
        stats = self.conversation.stats
        self.say(
            f"{asked} {'turn' if asked == 1 else 'turns'}, "
            f"{stats.cells_used} of {stats.cells_capacity} cells used"
        )

    def save(self, path: Path) -> None:
        """Save the conversation."""
        self.conversation.save(path)
        self.own_files.add(path)

    def _save_quietly(self, path: Path) -> None:
        try:
            self.save(path)
        except (ScopeError, OSError) as err:
            terminal.error(f"the session is not saved: {err}")
            self._unsaved = True
        else:
            self._unsaved = False

    def _save_at_end(self) -> None:
        if self.session is not None:
            with Interrupts():
                self._save_quietly(self.session)
