"""A batch from its files to its summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from scope_cpp.batch.asked import Asked, check, name, writer
from scope_cpp.batch.config import config_of, config_path, read_config, source_facts
from scope_cpp.batch.formats import OPENAI, find_format, open_input
from scope_cpp.batch.order import InOrder, Lines
from scope_cpp.batch.requests import Defaults, Requests
from scope_cpp.batch.run import Outcome, run
from scope_cpp.batch.runner import Plan, Runner, Status
from scope_cpp.batch.shapes import OpenAI, Plain, Shape
from scope_cpp.batch.sink import FileSink, Sink, StreamSink
from scope_cpp.batch.sizes import Census, Layout, Longest, Memory, layout, most_at_once
from scope_cpp.batch.source import Feed, FileSource, RowFeed, StreamFeed, chosen
from scope_cpp.batch.summary import Summary
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import draw_seed
from scope_cpp.errors import UsageError
from scope_cpp.reference.shipped import model_label

Line = Callable[[str], None]
OpenRunner = Callable[[Plan], AbstractContextManager[Runner]]
Progress = Callable[[Outcome, "int | None", Status], None]


@dataclass(frozen=True)
class Engines:
    """What computes the rows, where that is not an engine in this process.

    Attributes
    ----------
    open
        Makes the runner over all of them; the plan is each one's.
    count
        Engines in all.
    memory_parts
        Into how many parts they divide a machine's memory.
    """

    open: OpenRunner
    count: int = 1
    memory_parts: int = 1


class Job:
    """A batch; what is wrong with the request is told before anything is computed.

    Parameters
    ----------
    asked, defaults
    model
        For the prompts' tokens and the model's identity; stays open while it runs.
    placement
        How the model was loaded, as arguments of `Model.load`.
    stdin
        The stream to read where that is asked for.
    write
        Takes lines where the output is a stream.
    command
        To be noted.
    warn, note
        Take a line each.

    Raises
    ------
    UsageError, ScopeError
        If files can't be read or written, or do not go together.
    """

    def __init__(
        self,
        asked: Asked,
        defaults: Defaults,
        model: Model,
        *,
        placement: Mapping[str, Any],
        stdin: BinaryIO | None = None,
        write: Line,
        command: Sequence[str] = (),
        warn: Line,
        note: Line,
    ) -> None:
        check(asked)
        if asked.source is None and stdin is None:
            raise UsageError("there is no input: pipe rows in, or give a file with -i")
        self.asked, self.model, self.note, self._stdin = asked, model, note, stdin
        self.form = find_format(asked.source, asked.form)
        chat = defaults.chat and self.form != OPENAI  # whose lines say what they are
        self.defaults = replace(defaults, seed=self._seed(defaults.seed), chat=chat)
        self._requests = Requests(model, self.defaults, warn)
        self._placement, self._command, self._warned = placement, command, set[str]()
        self._warn, self._write = warn, write
        self._shape: Shape = OpenAI(model_label(model.path)) if self.form == OPENAI else Plain()

    @property
    def _file(self) -> FileSource | None:
        """The input, if it can be read more than once."""
        path = self.asked.source
        return FileSource(path, self.form) if path is not None and path.is_file() else None

    def _seed(self, seed: int) -> int:
        """Return the seed of the run: one that is drawn stays the same when the run goes on."""
        if seed == -1 and self.asked.output is not None:
            before = read_config(config_path(self.asked.output))
            seed = before["options"].get("seed", -1) if before else -1
        return draw_seed(seed)

    def run(
        self,
        engines: Engines | None = None,
        *,
        stop: Callable[[], bool] = lambda: False,
        progress: Progress = lambda outcome, total, status: None,
    ) -> Summary:
        """Run all rows that have no record yet.

        Parameters
        ----------
        engines
            ``None``: one in this process.
        stop
            Asked between steps.
        progress
            Called after each step with what came of it, rows in all, and how the runner is doing.

        Raises
        ------
        UsageError, ScopeError
            See `scope_cpp.batch.run.run`.
        """
        engines = engines or Engines(self._engine)
        with ExitStack() as opened:
            sink = self._open_sink(opened)
            census = self._look(sink)
            found = self._layout(census, engines.memory_parts)
            runner = opened.enter_context(engines.open(self._plan(found)))
            started, total = time.perf_counter(), self._total(census)
            in_order = self._in_order(sink)
            outcome = run(
                self._feed(opened),
                in_order,
                runner,
                stop=stop,
                fail_fast=self.asked.fail_fast,
                progress=lambda outcome: progress(outcome, total, runner.status()),
            )
            if isinstance(sink, StreamSink):
                in_order.finish()  # what is early would be lost
            return Summary(
                source=name(self.asked.source),
                output=name(self.asked.output),
                model=model_label(self.model.path),
                outcome=outcome,
                n_all=outcome.n_done if outcome.ended else total,
                status=runner.status(),
                n_parallel=found.n_parallel * engines.count,
                seconds=time.perf_counter() - started,
                seed=self.defaults.seed,
                resumable=isinstance(sink, FileSink),
                chat_instead=not self.defaults.chat and self.model.chat_template is not None,
            )

    # -- before the first row ---------------------------------------------------------------

    def _open_sink(self, opened: ExitStack) -> FileSink | StreamSink:
        path = self.asked.output
        if path is None:
            return StreamSink(self._write, self._shape)
        if path.exists() and not path.is_file():
            return StreamSink(writer(path, opened), self._shape)
        source = self.asked.source
        facts = source_facts(source, self.form) if source is not None and self._file else None
        config = config_of(
            self.model,
            self.defaults,
            shape=self._shape.name,
            ordered=self.asked.ordered,
            source=facts,
            command=self._command,
        )
        sink = opened.enter_context(
            FileSink(path, self._shape, force=self.asked.force, note=self.note)
        )
        sink.open(config)
        return sink

    def _look(self, sink: FileSink | StreamSink) -> Census:
        """Read a file once: what its rows come to, and whether the records there are of them."""
        if self._file is None:
            return Census.unknown(self._requests)
        longest, n_chats = Longest(), 0
        foreign = sink.keys() if isinstance(sink, FileSink) else set()
        for row in self._file:
            longest.add(row)
            n_chats += row.error is None and self._requests.is_chat(row)
            sink.has(row)
            foreign.discard(row.key)
        if foreign and not self.asked.force:
            raise UsageError(
                f"{self.asked.output} has {len(foreign)} records of rows that {self.asked.source} "
                f"does not have, such as {min(foreign)}: remove them, name another file with -o, "
                "or --force to keep them"
            )
        if n_chats:
            self._check_template(n_chats, longest.n_rows)
        return longest.census(self._requests)

    def _check_template(self, n_chats: int, n_rows: int) -> None:
        """Say what is wrong with the chat template, which so many rows need."""
        why = self._requests.template_problem
        if why is None:
            return
        if n_chats == n_rows:
            raise why
        self._warn(f"{n_chats} of {n_rows} rows have messages and will fail: {why}")

    def _layout(self, census: Census, memory_parts: int) -> Layout:
        asked = self.asked
        n_parallel = asked.n_parallel or most_at_once(census)
        with Memory.of(self._requests, n_parallel, memory_parts) as memory:
            return layout(
                census,
                memory,
                n_parallel=asked.n_parallel,
                cells=asked.cells,
                prefix_cells=asked.prefix_cells,
            )

    def _plan(self, found: Layout) -> Plan:
        return Plan(
            str(self.model.path.absolute()),  # a worker may be in another folder
            self._placement,
            self.defaults,
            found.n_parallel,
            found.n_cells,
            found.prefix_cells,
        )

    def _total(self, census: Census) -> int | None:
        if census.n_rows is None:
            return None
        return census.n_rows if self.asked.limit is None else min(self.asked.limit, census.n_rows)

    @contextlib.contextmanager
    def _engine(self, plan: Plan) -> Iterator[Runner]:
        with plan.runner(self.model, self._warn_once) as runner:
            yield runner

    def _warn_once(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            self._warn(line)

    # -- rows and records -------------------------------------------------------------------

    def _feed(self, opened: ExitStack) -> Feed:
        asked, seed = self.asked, self.defaults.seed if self.asked.shuffle else None
        if self._file is not None:
            return RowFeed(chosen(self._file, asked.limit, seed))
        if asked.source is not None:
            stream: BinaryIO = opened.enter_context(open_input(asked.source))
        else:
            assert self._stdin is not None
            stream = self._stdin
        return StreamFeed(stream, self.form, limit=asked.limit)

    def _in_order(self, sink: Lines) -> Sink:
        return InOrder(sink) if self.asked.ordered else sink
