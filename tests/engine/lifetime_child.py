"""Another process, for test_lifetime.py: what outlives its owner must not end it.

Arguments: ``together``, or the name of a scenario that needs a process of its own; and a model with
a chat template. Printed is what is tried, so that a crash can be told.
"""

from __future__ import annotations

import copy
import faulthandler
import gc
import itertools
import os
import pickle
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from scope_cpp.engine.context import Context
from scope_cpp.engine.context_params import ContextParams
from scope_cpp.engine.conversation import Conversation
from scope_cpp.engine.generate import Generation
from scope_cpp.engine.model import Model
from scope_cpp.engine.parallel import ParallelEngine, Request
from scope_cpp.engine.sampling import Sampler, SamplingParams
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError
from scope_cpp.native import kv_evict

PATH = Path(sys.argv[2]) if len(sys.argv) > 2 else Path()
SETTINGS = Settings(budget=60, n_threads=1, n_threads_batch=1)
GREEDY = SamplingParams(temp=0, ignore_eos=True)
GRAMMAR = SamplingParams(temp=0, grammar='root ::= "a" root | "a"')


def load() -> Model:
    return Model.load(PATH)


def generation(model: Model, **fields: Any) -> Generation:
    fields = {"n_predict": 200, "settings": SETTINGS, "sampling": GREEDY, **fields}
    return Generation(model, "the rat and the rest", **fields)


def conversation(model: Model) -> Conversation:
    settings = Settings(budget=400, n_threads=1, n_threads_batch=1)
    return Conversation(model, settings=settings, sampling=GREEDY, n_predict=50)


def engine(model: Model) -> ParallelEngine:
    settings = Settings(n_threads=1, n_threads_batch=1)
    made = ParallelEngine(model, n_parallel=2, n_cells=600, settings=settings, prefix_cells=64)
    for key in range(3):
        made.submit(Request("the rat and the rest", n_predict=50, sampling=GREEDY), key)
    return made


def context(model: Model) -> Context:
    made = Context(model, ContextParams(n_cells=256, n_threads=2))
    made.record_queries(4)
    made.decode([1, 2, 3], 0)
    return made


def sampler(model: Model) -> Sampler:
    return Sampler(model, GRAMMAR)


KINDS: dict[str, Callable[[Model], Any]] = {
    "generation": generation,
    "conversation": conversation,
    "engine": engine,
    "context": context,
    "sampler": sampler,
}

NO_CELLS = np.empty(0, np.int32)


def _use_state(made: Context) -> None:
    kv_evict.state_set(made.ptr, 0, np.zeros(64, np.uint8))


# What reaches llama.cpp, of each kind
USES: dict[str, dict[str, Callable[[Any], Any]]] = {
    "model": {
        "tokenize": lambda m: m.tokenize("a"),
        "detokenize": lambda m: m.detokenize([1]),
        "token_to_piece": lambda m: m.token_to_piece(1),
        "is_eog": lambda m: m.is_eog(1),
        "eog_tokens": lambda m: m.eog_tokens,
        "has_eog": lambda m: m.has_eog,
        "control_names": lambda m: m.control_names,
        "suppressed_tokens": lambda m: m.suppressed_tokens,
        "tokens": lambda m: (m.bos_token, m.eos_token, m.eot_token, m.add_bos),
        "desc": lambda m: m.desc,
        "metadata": lambda m: m.metadata("general.name"),
        "chat_template": lambda m: m.chat_template,
        "sizes": lambda m: (m.n_params, m.size_bytes),
        "vocab": lambda m: kv_evict.tokenize(m.vocab, b"a", True, True),
        "ptr": lambda m: m.ptr,
        **KINDS,
    },
    "generation": {
        "next": next,
        "list": list,
        "loop": lambda g: [response for response in g],
        "positions": lambda g: g.cache.positions(),
        "decode": lambda g: g.cache.decode(1),
        "logits": lambda g: g.context.logits(),
        "sampler": lambda g: g.sampler.reset(),
    },
    "conversation": {
        "ask": lambda c: list(c.ask("be")),
        "regenerate": lambda c: c.regenerate(),
        "edit": lambda c: c.edit("an"),
        "undo": lambda c: c.undo(),
        "clear": lambda c: c.clear(),
        "set_system": lambda c: c.set_system("on"),
        "set_sampling": lambda c: c.set_sampling(GREEDY),
        "set_policy": lambda c: c.set_policy(policy="h2o"),
        "set_budget": lambda c: c.set_budget(300),
        "stats": lambda c: c.stats,
        "kept": lambda c: c.kept(0, 0),
        "cells": lambda c: c.cache.positions(),
        "save": lambda c: c.save(Path(FOLDER) / "saved"),
        "load": lambda c: c.load(Path(FOLDER) / "there"),
    },
    "engine": {
        "submit": lambda e: e.submit(Request("a", n_predict=1), 7),
        "step": lambda e: e.step(),
        "cells_used": lambda e: e.cells_used(),
        "context": lambda e: e.context.n_cells,
    },
    "context": {
        "decode": lambda c: c.decode([4], 3),
        "logits": lambda c: c.logits(),
        "n_cells": lambda c: c.n_cells,
        "memory": lambda c: c.memory,
        "each": lambda c: list(c.each(abs, [1, 2])),
        "record_queries": lambda c: c.record_queries(9),
        "remove": lambda c: c.remove(0),
        "share": lambda c: c.share(0, 0, 1),
        "read_state": lambda c: c.read_state(0),
        "write_state": lambda c: c.write_state(0, np.zeros(64, np.uint8)),
        "kv_evict.init": lambda c: kv_evict.init(c.ptr, 1),
        "kv_evict.n_layer": lambda c: kv_evict.n_layer(c.ptr),
        "kv_evict.n_used": lambda c: kv_evict.n_used(c.ptr),
        "kv_evict.n_bytes": lambda c: kv_evict.n_bytes(c.ptr),
        "kv_evict.cells": lambda c: kv_evict.cells(c.ptr, 0),
        "kv_evict.n_queries": lambda c: kv_evict.n_queries(c.ptr, 0),
        "kv_evict.scores": lambda c: kv_evict.scores(c.ptr, 0, 1, NO_CELLS),
        "kv_evict.queries": lambda c: kv_evict.queries(c.ptr, 0, 1, 9),
        "kv_evict.rows": lambda c: kv_evict.rows(c.ptr, 0, NO_CELLS),
        "kv_evict.get_dead": lambda c: kv_evict.get_dead(c.ptr, 0, NO_CELLS),
        "kv_evict.state_get": lambda c: kv_evict.state_get(c.ptr, 0),
        "kv_evict.state_set": _use_state,
        "kv_evict.forget": lambda c: kv_evict.forget(c.ptr, 0),
    },
    "sampler": {
        "sample": lambda s: s.sample(s.model_context),
        "accept_prompt": lambda s: s.accept_prompt([1]),
        "reset": lambda s: s.reset(),
    },
}
FOLDER = ""


def refused(use: Callable[[Any], Any], handle: Any, said: str) -> None:
    try:
        given = use(handle)
    except ScopeError as err:
        assert said in str(err), str(err)
    else:
        raise AssertionError(f"{type(handle).__name__} was not refused: it gave {given!r}")


# -- scenarios ------------------------------------------------------------------------------


def every_use_after_its_model() -> None:
    """Whatever reaches llama.cpp says that the model is closed: before, it worked."""
    for kind, uses in USES.items():
        for name, use in uses.items():
            print(kind, name, flush=True)
            model = load()
            handle = model if kind == "model" else KINDS[kind](model)
            if kind == "sampler":
                handle.model_context = context(load())
            if kind == "conversation":
                list(handle.ask("be"))
                handle.save(Path(FOLDER) / "there")
            if kind == "generation":
                next(handle)
            model.close()
            for _ in range(2):
                refused(use, handle, f"the model {PATH.name} is closed: load it again")
                if kind != "model":
                    handle.close()


def every_use_after_close() -> None:
    """The same after each one's own close, twice, with the model open."""
    with load() as model:
        for kind, uses in USES.items():
            if kind == "model":
                continue
            handle = KINDS[kind](model)
            if kind == "sampler":
                handle.model_context = context(model)
            if kind == "conversation":
                list(handle.ask("be"))
                handle.save(Path(FOLDER) / "there")
            handle.close()
            handle.close()
            for name, use in uses.items():
                print(kind, name, flush=True)
                refused(use, handle, " is closed: ")


def null_is_no_context() -> None:
    for use in USES["context"].values():
        try:
            use(type("NoContext", (), {"ptr": None})())
        except (TypeError, AttributeError, kv_evict.ctypes.ArgumentError):
            pass
        else:
            raise AssertionError("NULL was taken")


def nothing_is_copied_or_sent() -> None:
    """A second owner would free what the first one uses; another process has none of it."""
    with load() as model:
        for make in (lambda model: model, *KINDS.values()):
            for way in (copy.copy, copy.deepcopy, pickle.dumps):
                refused(way, make(model), "can't be copied or sent to another process")


def every_order_of_closing() -> None:
    """Closed in every order, some twice, in the middle of what they do."""
    for order in itertools.permutations(["model", "generation", "conversation", "engine"]):
        model = load()
        handles: dict[str, Any] = {name: KINDS[name](model) for name in order if name != "model"}
        handles["model"] = model
        next(handles["generation"])
        handles["engine"].step()
        answer = handles["conversation"].ask("be")
        next(answer)
        for name in order:
            handles[name].close()
            handles[name].close()
        handles["model"].close()
        refused(next, answer, " is closed: ")


def every_order_of_dropping() -> None:
    """Dropped in every order, with and without the collector, alone and in a circle."""
    gc.disable()
    gc.freeze()  # what was imported need not be looked at each time
    orders = itertools.permutations(["generation", "conversation", "engine"])
    for order, circle in itertools.product(orders, (False, True)):
        model = load()
        handles = {name: KINDS[name](model) for name in order}
        next(handles["generation"])
        handles["engine"].step()
        pointers = [weakref.ref(handle.ptr) for handle in (model, handles["engine"].context)]
        if circle:
            for name, other in zip(order, order[1:] + order[:1], strict=True):
                handles[name].other = handles[other]
            model.other = handles[order[0]]
        handle = None
        for name in order:
            handle = handles.pop(name)
        del model, handle
        gc.collect()
        assert [pointer() for pointer in pointers] == [None, None]


def nothing_is_left_behind() -> None:
    """A generation that is neither closed nor finished is freed as soon as nothing refers to it."""
    gc.disable()
    with load() as model:
        for n_steps in (0, 1, 30):
            made = generation(model)
            for _, _ in zip(range(n_steps), made, strict=False):
                pass
            pointers = [weakref.ref(made.context.ptr), weakref.ref(made.sampler.ptr)]
            del made
            assert [pointer() for pointer in pointers] == [None, None]
        for _ in generation(model):
            break
        pointer = weakref.ref(model.ptr)
        assert model._dependants == {}
    del model
    assert pointer() is None


def closed_while_a_step_runs() -> None:
    """Another thread closes what this kind depends on; the loop ends with an error, or is done."""

    def run_engine(made: ParallelEngine, begun: threading.Event) -> None:
        while True:
            made.submit(Request("the rat", n_predict=50, sampling=GREEDY), object())
            made.step()
            begun.set()

    def run_generation(made: Generation, begun: threading.Event) -> None:
        for _ in made:
            begun.set()
        raise AssertionError("it was not broken off")

    def run_conversation(made: Conversation, begun: threading.Event) -> None:
        while True:
            for _ in made.ask("be"):
                begun.set()
            made.clear()

    def run_context(made: Context, begun: threading.Event) -> None:
        while True:
            made.decode(range(10), 3)
            made.logits()
            list(made.each(abs, range(4)))
            made.remove(0, 3)
            begun.set()

    def run_model(made: Model, begun: threading.Event) -> None:
        text = "the rat and the rest " * 500
        while True:
            made.detokenize(made.tokenize(text))
            begun.set()

    runs: dict[str, Callable[[Any, threading.Event], None]] = {
        "generation": run_generation,
        "conversation": run_conversation,
        "engine": run_engine,
        "context": run_context,
        "model": run_model,
    }
    for kind, run in runs.items():
        for closes_model in (False, True):
            for _ in range(5):
                print(kind, closes_model, flush=True)
                model, begun, said = load(), threading.Event(), list[str]()
                fields = {"n_predict": 10**9} if kind == "generation" else {}
                made = model if kind == "model" else KINDS[kind](model, **fields)

                def go(run: Any = run, made: Any = made, begun: Any = begun, said: Any = said):
                    try:
                        run(made, begun)
                    except ScopeError as refusal:
                        said.append(str(refusal))
                    finally:
                        begun.set()

                thread = threading.Thread(target=go)
                thread.start()
                begun.wait()
                (model if closes_model else made).close()
                thread.join()
                name = "model" if closes_model or kind == "model" else kind
                assert len(said) == 1 and f"the {name}" in said[0] and "is closed" in said[0], said


def two_threads_at_one_handle() -> None:
    """One of two that iterate at once is refused, or they take turns; nothing breaks."""
    with load() as model:
        for _ in range(5):
            made, cells = generation(model, n_predict=100), context(model)
            said: list[BaseException] = []

            def go(made: Any = made, cells: Any = cells, said: Any = said) -> None:
                try:
                    for _ in made:
                        with suppress(ScopeError):  # another one is at that position
                            cells.decode([5], 3)
                        cells.remove(0, 3)
                except ScopeError as refusal:
                    said.append(refusal)

            threads = [threading.Thread(target=go) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert all("another thread is iterating" in str(err) for err in said), said


def what_was_never_made() -> None:
    """A traceback keeps what a wrong setting left unfinished; its model is closed meanwhile."""
    makes: list[Callable[[Model], Any]] = [
        lambda model: generation(model, n_predict=0),
        lambda model: generation(model, stop=[""]),
        lambda model: Conversation(model, n_predict=0),
        lambda model: Conversation(model, stop=[""]),
        lambda model: ParallelEngine(model, n_parallel=0, n_cells=9),
        lambda model: Sampler(model, SamplingParams(grammar="root =")),
        lambda model: Context(model, ContextParams(n_cells=2**50)),
    ]
    for make in makes:
        model = load()
        try:
            make(model)
        except ScopeError:
            model.close()
        else:
            raise AssertionError("it was made")


def an_error_leaves_a_with_block() -> None:
    made = None
    try:
        with load() as model:
            made = generation(model)
            next(made)
            raise KeyError("something of the user")
    except KeyError:
        pass
    assert made is not None and made.closed and made.context.closed and made.stats.n_generated == 1
    refused(next, made, "the model")


def a_ctrl_c_ends_a_generation() -> None:
    with load() as model:
        made = generation(model)
        decode, n = made.context.decode, itertools.count()

        def interrupted(*args: Any) -> None:
            decode(*args)
            if next(n) == 5:
                raise KeyboardInterrupt

        made.context.decode = interrupted  # type: ignore[method-assign]
        try:
            list(made)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("it was not interrupted")
        assert made.stats.n_generated == 5
        refused(next, made, "the generation ended with KeyboardInterrupt: make another one")
        assert len(list(generation(model, n_predict=9))) == 9


def after_a_fork() -> None:
    """A child refuses what its parent made, waits for nothing, and frees nothing."""
    model = load()
    handles = {kind: make(model) for kind, make in KINDS.items()}
    next(handles["generation"])
    handles["sampler"].model_context = handles["context"]
    for known in ("eog_tokens", "control_names"):
        vars(model).pop(known, None)  # they need no model any more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for kind, uses in USES.items():
                for name, use in uses.items():
                    if kind != "conversation" or name not in ("save", "load"):
                        handle = model if kind == "model" else handles[kind]
                        refused(use, handle, "before this process was forked: start")
            refused(generation, load(), "before this process was forked: start")
            model.close()
            del handles, model
            gc.collect()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(list(handles["generation"])) == 199  # the parent goes on


def a_fork_before_anything_is_made() -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for _ in range(2):
                with load() as model, generation(model, n_predict=9) as made:
                    status = 0 if len(list(made)) == 9 else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


# -- how a process may end ------------------------------------------------------------------

KEPT: list[Any] = []


def exit_with_all_open() -> None:
    model = load()
    KEPT.extend(make(model) for make in KINDS.values())
    KEPT.append(model)
    next(KEPT[0])
    KEPT[2].step()
    next(KEPT[1].ask("be"))
    KEPT.append(KEPT)


def exit_in_the_middle_of_a_loop() -> None:
    for response in generation(load()):
        if response.stats.n_generated == 5:
            sys.exit(0)


def exit_while_a_daemon_runs() -> None:
    """A thread that is never joined computes until the end of the process."""
    begun = threading.Event()

    def run() -> None:
        with suppress(ScopeError):
            while True:
                with load() as model:
                    for _ in generation(model):
                        begun.set()

    for _ in range(2):
        threading.Thread(target=run, daemon=True).start()
    begun.wait()


TOGETHER = (
    nothing_is_left_behind,
    every_order_of_dropping,
    nothing_is_copied_or_sent,
    every_order_of_closing,
    every_use_after_its_model,
    every_use_after_close,
    null_is_no_context,
    what_was_never_made,
    an_error_leaves_a_with_block,
    a_ctrl_c_ends_a_generation,
    two_threads_at_one_handle,
    closed_while_a_step_runs,
    after_a_fork,
)
ALONE = (
    a_fork_before_anything_is_made,
    exit_with_all_open,
    exit_in_the_middle_of_a_loop,
    exit_while_a_daemon_runs,
)

if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore", UserWarning)
    with TemporaryDirectory() as FOLDER:
        for scenario in TOGETHER if sys.argv[1] == "together" else ALONE:
            if sys.argv[1] in ("together", scenario.__name__):
                print(scenario.__name__, flush=True)
                scenario()
