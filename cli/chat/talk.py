"""A conversation on the screen: messages in, answers shown as they are written, then saved."""

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
from ..interrupt import INTERRUPTED, Interrupts
from ..report import line_of
from . import heatmap
from .frame import keys_kept
from .lines import line_of_message
from .screen import Screen
from .text import in_commands
from .views import preview

if TYPE_CHECKING:
    from rich.text import Text

    from scope_cpp.engine.conversation import Answer, Conversation


# a prompt of more tokens is worth being told how far it is read
LONG = 256

# what follows an error after which the message is there to be changed and sent again
_BACK = " (the message is back in the input line)"


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
    """A conversation and a screen.

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
    verbose
        Whether the traceback of a fault of ours is shown.

    Attributes
    ----------
    attached : list of str
        Texts that go before the next message.
    own_files : set of Path
        Files that were saved or loaded here, and may be written over.
    line : str
        What the user's next line begins with.
    editing : bool
        Whether that line is the last message, to be changed.
    interrupted : bool
        Whether Ctrl-C was pressed last.
    unsaved : bool
        Whether the session's file lacks something.
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
        verbose: bool = False,
    ) -> None:
        self.conversation, self.screen, self.notices = conversation, screen, notices
        self.session, self.plain = session, plain
        self.statistics, self.verbose = statistics, verbose
        self.attached: list[str] = []
        self.own_files = set() if session is None else {session}
        self.line = ""
        self.editing = self.interrupted = self.unsaved = False
        self._growth = Growth()
        self._n_again = 0
        conversation.watch = self._watch

    # -- answers

    def ask(self, text: str, back: str = _BACK) -> Outcome:
        """Send a message, behind what was attached, and show the answer.

        Parameters
        ----------
        text
        back
            What is said of a message without an answer, which is what the next line begins with.
        """
        message = "\n\n".join([*self.attached, text] if text.strip() else self.attached)
        outcome = self.answer(lambda: self.conversation.ask(message), back if text.strip() else "")
        if outcome.kept:
            self.attached.clear()
        else:
            self.line = line_of_message(text)
            if self.attached:
                self.say("what /read took still goes before your next message: /undo takes it off")
        return outcome

    def answer_edited(self, text: str) -> None:
        """Replace the last message and show its answer; taken back, the text is on the line."""
        if not self.answer(lambda: self.conversation.edit(text), _BACK).kept:
            self.edit(text)

    def edit(self, text: str) -> None:
        """Let the user change the last message on the next line."""
        self.editing, self.line = True, text

    def answer(self, begin: Callable[[], Answer], back: str = "") -> Outcome:
        """Show an answer as it is written, and what it came to; `back` is for want of one.

        Raises
        ------
        Leave
            After a second Ctrl-C.
        """
        with Interrupts() as interrupts:
            outcome = self._shown(begin, interrupts, back)
            if outcome.kept and self.statistics:
                terminal.note(line_of(self.conversation, self._growth))
            if outcome.kept and self.session is not None:
                self._save_quietly(self.session)
        self.interrupted = interrupts.count > 0
        if interrupts.count > 1:
            raise Leave(INTERRUPTED)
        return outcome

    def _shown(self, begin: Callable[[], Answer], interrupts: Interrupts, back: str) -> Outcome:
        try:
            with self.notices.held(), keys_kept(self.plain):
                answer = begin()
                error = self._write(answer, interrupts)
        except ScopeError as err:
            terminal.error(_refusal(err, back))
            return Outcome(False, err)
        kept = bool(answer.text) or answer.finish_reason is not None
        if error is not None:
            terminal.error(str(error) if kept else _refusal(error, back))
        elif interrupts.count:
            say = self.note if answer.text.strip() else terminal.note
            say("stopped, what is written stays" if kept else f"stopped, nothing was sent{back}")
        elif answer.no_text is not None:
            terminal.warning(f"no text was written: {answer.no_text}")
        elif answer.finish_reason == "length" and self.conversation.why_full is None:
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

    def _watch(self, done: int, total: int, again: bool) -> None:
        """Show how far the reading is."""
        if again:
            self._n_again = total
        if again or total > LONG:
            so_far = f", {done:,} of them are done" if done else ""
            self.screen.wait(f"reading {total:,} tokens{' again' * again}{so_far}…")

    # -- what commands use

    def take_back(self) -> None:
        """Take the last message back, and say what that took.

        Raises
        ------
        Leave
            After a second Ctrl-C.
        """
        before = self.conversation.messages
        asked = [message["content"] for message in before if message["role"] == "user"]
        whole = self.read_again(self.conversation.undo)
        if len(self.conversation.messages) == len(before):
            self.say("stopped, nothing is taken back")
            return
        said = f"taken back: {preview(asked[-1])}"
        if self._n_again:
            when = "were" if whole else "will be"
            said += f"; {self._n_again:,} tokens {when} read again, as cells before it had gone"
        self.say(said)

    def read_again(self, act: Callable[[], object]) -> bool:
        """Do what may read tokens again, and show how far it is; return whether it was done.

        Raises
        ------
        Leave
            After a second Ctrl-C.
        """
        self._n_again, done = 0, False
        with Interrupts() as interrupts:
            self.screen.begin("")
            try:
                with interrupts.raised():
                    act()
                    done = True
            except KeyboardInterrupt:
                pass
            finally:
                self.screen.end()
        self.interrupted = interrupts.count > 0
        if interrupts.count > 1:
            raise Leave(INTERRUPTED)
        return done

    def say(self, text: str | Text) -> None:
        """Show what a command has to say, on stderr."""
        if isinstance(text, str):
            text = printable(text)
            if terminal.is_terminal():
                text = terminal.broken(text, self.width())
            print(text, file=sys.stderr, flush=True)
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
            self.unsaved = True
        else:
            self.unsaved = False

    def save_at_end(self) -> None:
        """Save the session, if there is one, whatever the user presses meanwhile."""
        if self.session is not None:
            with Interrupts():
                self._save_quietly(self.session)


def _refusal(err: ScopeError, back: str) -> str:
    """Return the line of an error; `back` is there where commands are typed."""
    return f"{in_commands(str(err))}{back}" if back else str(err)
