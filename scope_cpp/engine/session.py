"""A conversation in a file: saved, loaded into a running one, or taken up by a new one.

A file is taken only with the model, policies, KV types and libraries that it was saved with:
with others the next tokens would not be those that would have come without the interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from scope_cpp.engine import doctor, session_model
from scope_cpp.engine.budget import format_bytes
from scope_cpp.engine.memory import free_memory
from scope_cpp.engine.model import Model
from scope_cpp.engine.sampling import Sampler, SamplingParams
from scope_cpp.engine.session_file import SessionFile, write
from scope_cpp.engine.session_state import Held, export_state, import_state
from scope_cpp.engine.session_values import COMPUTE, differences, from_json, to_json, typed
from scope_cpp.engine.settings import Settings
from scope_cpp.errors import ScopeError, UsageError, Warn, ignore
from scope_cpp.native import kv_evict

T = TypeVar("T")
C = TypeVar("C", bound=Held)


@dataclass(frozen=True)
class Session:
    """What a file says: of the right types, but not compared with anything yet.

    Attributes
    ----------
    model, libraries
        What the conversation was held with.
    n_cells
        Its budget.
    settings, sampling, n_predict, stop, template
        As of a conversation; of the settings, those in `COMPUTE` are defaults.
    meta
        For `import_state` to check.
    """

    model: dict[str, Any]
    libraries: dict[str, Any]
    n_cells: int
    settings: Settings
    sampling: SamplingParams
    n_predict: int | None
    stop: tuple[str, ...]
    template: str | None
    meta: dict[str, Any]


def save(conversation: Held, path: str | Path) -> None:
    """Write a conversation to a file, in place of one that was saved there before.

    Raises
    ------
    ScopeError
        If it can't be written; a file that was there is as it was.
    """
    meta, arrays = export_state(conversation)
    header = {
        "model": session_model.identify(conversation.model),
        "libraries": libraries(),
        "n_cells": conversation.cache.capacity,
        "settings": to_json(conversation.settings),
        "sampling": to_json(conversation.sampling),
        "n_predict": conversation.n_predict,
        "stop": list(conversation.stop),
        "template": conversation.template,
        "state": meta,
    }
    write(path, header, arrays)


def load(conversation: C, path: str | Path) -> C:
    """Open what was saved, its budget too, to go on in place of a conversation.

    Raises
    ------
    ScopeError
        If the file is none of ours, is damaged, or was saved with something else: the message
        says with what.
    """
    with SessionFile(path) as file:
        session = _parse(file)
        _require_model(path, session, conversation.model)
        for saved, here, flag in differences(session.settings, conversation.settings):
            raise UsageError(
                f"{path} was saved with {saved}, this conversation has {here}: give {flag}"
            )
        # what it warns of was said when this conversation was opened
        return _take_up(
            type(conversation),
            conversation.model,
            file,
            session,
            conversation.settings,
            warn=ignore,
        )


def resume(
    make: Callable[..., C],
    model: Model,
    path: str | Path,
    compute: Settings | None,
    warn: Warn,
) -> C:
    """Open a conversation as it was saved, with settings of its own.

    Parameters
    ----------
    make
        What to open.
    model
        The model that it was saved with.
    path
        A saved conversation.
    compute
        Settings of which those in `COMPUTE` are used.
    warn
        As of the conversation.

    Raises
    ------
    ScopeError
        If the file is none of ours, is damaged, or was saved with another model.
    """
    with SessionFile(path) as file:
        session = _parse(file)
        _require_model(path, session, model)
        return _take_up(make, model, file, session, compute or Settings(), warn)


STATE_FORMAT = "the state format"
_ONCE = "the eviction ABI"  # its name in older files, when the two were counted together


def libraries() -> dict[str, Any]:
    """Return what a saved state depends on: the commit of llama.cpp, and the state's format."""
    return {"llama.cpp": doctor.llama_commit(), STATE_FORMAT: kv_evict.STATE_FORM}


def _parse(file: SessionFile) -> Session:
    header = file.header

    def part(name: str, read: Callable[[Any], T]) -> T:
        if name not in header:
            file.damaged(f"its {name} is missing")
        with _naming(file):
            return read(header[name])

    def value(name: str, kind: Any) -> Any:
        return part(name, lambda value: typed(name, value, kind))

    def table(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("its header has no table where one must be")
        return value

    return Session(
        model=part("model", table),
        libraries=part("libraries", table),
        n_cells=value("n_cells", int),
        settings=part("settings", lambda value: from_json(Settings, value)),
        sampling=part("sampling", lambda value: from_json(SamplingParams, value)),
        n_predict=value("n_predict", int | None),
        stop=value("stop", tuple[str, ...]),
        template=value("template", str | None),
        meta=part("state", table),
    )


def _require_model(path: str | Path, session: Session, model: Model) -> None:
    for what, here in libraries().items():
        saved = session.libraries.get(what)
        if what == STATE_FORMAT and saved is None:
            saved = session.libraries.get(_ONCE)
        if saved != here:
            raise UsageError(
                f"{path} was saved with {what} {saved}, this scope-cpp has {here}: "
                "open it with the scope-cpp that saved it"
            )
    other = session_model.difference(session.model, session_model.identify(model))
    if other is not None:
        raise UsageError(f"{path} was saved with the model {other}: open it with that model")


def _take_up(
    make: Callable[..., C],
    model: Model,
    file: SessionFile,
    session: Session,
    compute: Settings,
    warn: Warn,
) -> C:
    """Read and check the rest of a file, in a conversation of its own."""
    arrays = _read_all(file)
    same = {name: getattr(compute, name) for name in COMPUTE}
    with _naming(file), ExitStack() as opened:
        Sampler(model, session.sampling).close()  # refuses what fits no vocabulary
        conversation = make(
            model,
            settings=replace(session.settings, budget=session.n_cells, **same),
            sampling=session.sampling,
            template=session.template,
            n_predict=session.n_predict,
            stop=session.stop,
            warn=warn,
        )
        opened.callback(conversation.close)
        import_state(conversation, session.meta, arrays)
        opened.pop_all()
    return conversation


def _read_all(file: SessionFile) -> dict[str, NDArray[Any]]:
    needed, free = sum(member.n_bytes for member in file.members.values()), free_memory()
    if needed > free:
        raise ScopeError(
            f"{file.path} needs {format_bytes(needed)} of memory, {format_bytes(free)} are free: "
            "close other programs"
        )
    return {name: file.read(name) for name in file.members}


@contextmanager
def _naming(file: SessionFile) -> Iterator[None]:
    """Let errors name the file."""
    try:
        yield
    except ValueError as err:
        file.damaged(str(err))
    except UsageError as err:
        raise UsageError(f"{file.path}: {err}") from None
    except ScopeError as err:
        raise ScopeError(f"{file.path}: {err}") from None
