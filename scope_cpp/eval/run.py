"""A run: all items under all rows, several at once, from where an earlier start of it ended."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.engine.threads import default_threads
from scope_cpp.errors import ScopeError
from scope_cpp.eval.asked import Asked
from scope_cpp.eval.config import config_of
from scope_cpp.eval.fidelity import measure
from scope_cpp.eval.folder import PREDICTIONS
from scope_cpp.eval.grid import Grid
from scope_cpp.eval.metrics import summarize
from scope_cpp.eval.prepare import check_scorer, choose_folder, make_rows, read_items, settle
from scope_cpp.eval.progress import Progress, Tracker
from scope_cpp.eval.record import Prediction, item_digest
from scope_cpp.eval.result import Result, metrics_of
from scope_cpp.eval.rows import Row
from scope_cpp.eval.sample import Aborted, Counts, Reading, Stop, Watch, read_item, write_output
from scope_cpp.eval.task import Item, Output, Score
from scope_cpp.eval.tasks import find

Line = Callable[[str], None]


class Evaluation:
    """A task on a model, under rows; what is wrong with them is told when it is made.

    Parameters
    ----------
    asked, grid
        What is to be run. Threads that the grid's base leaves open are shared by the `jobs`.
    model
        Stays open while it runs.
    out
        Folder; ``None``: one below `scope_cpp.eval.prepare.FOLDERS`, the same for the same
        configuration.
    fresh
        Take a new folder even if there is one.
    scorer
        The report's; ``None``: the task's first.
    jobs
        Samples at once, each with a context of its own.
    command
        For ``config.json``.
    warn, note
        Take a line each, a warning only once.

    Raises
    ------
    UsageError, ScopeError
        For a name that is none, data that can't be read, a folder of another run, and a model
        whose cache can't be bounded.
    """

    def __init__(
        self,
        asked: Asked,
        grid: Grid,
        model: Model,
        *,
        out: Path | None = None,
        fresh: bool = False,
        scorer: str | None = None,
        jobs: int = 1,
        command: Sequence[str] = (),
        warn: Line = lambda line: None,
        note: Line = lambda line: None,
    ) -> None:
        self.task, notes = find(asked.task), list[str]()
        grid.rows(1)  # what is wrong with rows is told before anything is read
        asked = settle(asked, self.task, model, notes.append)
        self._sampling = {seed: _sampling(asked, seed) for seed in asked.seeds}
        self.scorer = check_scorer(self.task, scorer)
        self.asked, self.model, self.jobs, self.note = asked, model, jobs, note
        self._warn, self._warned, self._lock = warn, set[str](), threading.Lock()
        self.items, self._seeds = read_items(self.task, asked, model, self.warn)
        self._by_id = {item.id: item for item in self.items}
        threads = grid.base.n_threads or max(1, default_threads() // jobs)
        base = replace(grid.base, n_threads=threads)
        grid = replace(grid, base=base)
        self.rows = make_rows(self.task, grid, self.items, model, notes.append)
        self._config = config_of(asked, self.task, model, self.items, self.rows, command)
        self.folder = choose_folder(self._config, out, fresh, self.warn)
        self._write = self._generate
        if self.task.compares:
            self._write = self._full_cache(base).compare
        for line in notes:  # nothing was wrong
            note(line)

    def warn(self, line: str) -> None:
        """Pass a warning on, once."""
        with self._lock:
            if line in self._warned:
                return
            self._warned.add(line)
        self._warn(line)

    def run(self, stop: Stop, progress: Progress = lambda status: None) -> Result:
        """Run what is not finished yet, and sum up.

        Parameters
        ----------
        stop
            May be changed from elsewhere at any time.
        progress
            Called at each token and at each sample's end, by one thread at a time.

        Raises
        ------
        ScopeError
            If the folder can't be written or read; what is finished stays finished.
        """
        total = len(self.items) * len(self.rows)
        with self.folder.writing() as writer:
            self.folder.add_rows(self._config)
            found = {p.key: self._known(p) for p in self.folder.predictions()}
            asked = {row.name for row in self.rows}
            done = {k for k, p in found.items() if p.error is None and p.row in asked}
            already = f", {len(done)} of {total} samples are there already" if done else ""
            self.note(f"results go to {self.folder.path}{already}")
            tracker = Tracker(progress, len(done), total)
            with contextlib.closing(self._all(done, stop, tracker)) as predictions:
                for prediction in predictions:
                    writer.append(prediction)
                    found[prediction.key] = prediction
                    done.add(prediction.key)
                    tracker.ended(prediction.row, prediction.item, len(done))
        rows = [Row.from_json(values) for values in self.folder.config["rows"]]
        records = summarize(
            self.task,
            self.items,
            rows,
            found.values(),
            self.scorer,
            self.asked.seed,
            self._seeds,
        )
        result = Result(
            self.folder.path,
            self.folder.config,
            self.scorer,
            records,
            sum(p.error is None for p in found.values()),
            len(self.items) * len(rows),
            [prediction for prediction in found.values() if prediction.error is not None],
            interrupted=sum(row in asked for row, _ in found) < total,
        )
        self.folder.write_metrics(metrics_of(result))
        return result

    def _known(self, prediction: Prediction) -> Prediction:
        """Return a prediction of an earlier start, with a score by every scorer.

        Raises
        ------
        ScopeError
            If it is of none of the items.
        """
        item = self._by_id.get(prediction.item)
        if item is None or item_digest(item) != prediction.digest:
            raise ScopeError(
                f"{self.folder.path}: {prediction.item!r} of {prediction.row!r} is none of this "
                f"run's samples: remove its line from {PREDICTIONS}"
            )
        if prediction.output is None or set(prediction.scores) == set(self.task.scorers):
            return prediction
        return replace(prediction, scores=self._scores(item, prediction.output))

    def _scores(self, item: Item, output: Output) -> dict[str, Score]:
        return {name: self.task.score(item, output, name) for name in self.task.scorers}

    def _all(
        self, done: set[tuple[str, str]], stop: Stop, tracker: Tracker
    ) -> Generator[Prediction, None, None]:
        """Run item by item, so that the rows of a run that is stopped share their items."""
        pending = iter(
            [(i, row) for i in self.items for row in self.rows if (row.name, i.id) not in done]
        )
        with ThreadPoolExecutor(self.jobs) as pool:
            running: set[Future[Prediction | None]] = set()
            try:
                while True:
                    while not stop.asked and len(running) < self.jobs:
                        following = next(pending, None)
                        if following is None:
                            break
                        item, row = following
                        watch = Watch(stop, partial(tracker.written, row.name, item.id))
                        running.add(pool.submit(self._one, item, row, watch))
                    if not running:
                        return
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from filter(None, [future.result() for future in ended])
            finally:
                if running:
                    stop.asked = 2  # a failure: the others' work can't be kept either

    def _one(self, item: Item, row: Row, watch: Watch) -> Prediction | None:
        """Run one sample; None if it was given up."""
        blank = Prediction(
            row.name,
            item.id,
            item.group,
            item_digest(item),
            sample={"prompt": item.prompt, "gold": item.gold} if self.asked.log_samples else None,
        )
        try:
            with self._lock:  # templates are rendered by a process of which there is one
                reading = read_item(self.model, item, self.asked.template)
            sampling = self._sampling[self._seeds[item.id]]
            output, counts, loop = self._write(item, reading, row, sampling, watch, self.warn)
            scores = self._scores(item, output)
        except Aborted:
            return None
        except ScopeError as err:
            return replace(blank, error=" ".join(str(err).split()))
        return replace(blank, output=output, scores=scores, stats=counts, loop=loop)

    def _full_cache(self, base: Settings) -> measure.FullCache:
        """Return what rows are compared with; texts of another model or prompt are refused."""
        settings = measure.reference_settings(base, self.model)
        found = measure.FullCache(self.model, self.folder.path / measure.FOLDER, settings)
        for item in self.items:
            reading = read_item(self.model, item, self.asked.template)
            found.check(item, reading, self._sampling[self._seeds[item.id]])
        return found

    def _generate(
        self,
        item: Item,
        reading: Reading,
        row: Row,
        sampling: SamplingParams,
        watch: Watch,
        warn: Line,
    ) -> tuple[Output, Counts, int | None]:
        """Let the model write, see `write_output`."""
        return write_output(self.model, reading, item.n_predict, row, sampling, watch, warn)


def _sampling(asked: Asked, seed: int) -> SamplingParams:
    return SamplingParams(temp=asked.temp or 0.0, seed=seed)
