"""Who owns what in llama.cpp, and when it is freed.

A pointer that was made by `own` frees what it points to when its last reference is gone. The
arguments of a running call are references, and so is what another pointer needs: nothing is freed
while a call uses it, or before what depends on it, in whatever order Python drops objects.

A `Closable` gives its pointer out while it is open only, and closes first what depends on it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from scope_cpp.errors import ScopeError

P = TypeVar("P")
C = TypeVar("C", bound="Closable")

# How often the process was forked on the way here: what was made before belongs to a parent
_forks = 0
# Whether llama.cpp has started threads here, and whether it had in a parent before the fork
_computes = _threads_lost = False
_BY_SPAWN = "start processes by spawn, and load the model in each"


class Pointer(ctypes.c_void_p):
    """An address that can own what lies there; see `own`.

    Attributes
    ----------
    lock
        Of a pointer that owns: for calls that must not run at the same time.
    whole
        Of a `part`: what it is a part of.
    tainted
        Of a context: whether NaN or infinite numbers were met there.
    """

    lock: Any
    whole: object
    tainted = False


def own(pointer: P, free: Callable[[], None], *needs: object) -> P:
    """Have `free` called when the last reference to `pointer` is gone.

    Parameters
    ----------
    pointer
        A `Pointer`, or a typed pointer of ctypes. It gets a ``lock`` for calls that must not run
        at the same time.
    free
        Must not refer to `pointer`.
    needs
        Other pointers, which are kept until then.
    """
    pointer.lock = threading.RLock()  # type: ignore[attr-defined]
    finalizer = weakref.finalize(pointer, _free, _forks, free, needs)
    finalizer.atexit = False  # then `_close_all` closes in order
    return pointer


def part(address: int, whole: P) -> Pointer:
    """Return a pointer to a part of what `whole` points to, which is kept as long."""
    pointer = Pointer(address)
    pointer.whole = whole
    return pointer


def begin_computing() -> None:
    """Note that llama.cpp is going to start threads.

    Raises
    ------
    ScopeError
        If it has done so before this process was forked: it would wait forever for the threads
        of the parent, which a fork does not take along.
    """
    global _computes
    if _threads_lost:
        raise ScopeError(f"llama.cpp had computed before this process was forked: {_BY_SPAWN}")
    _computes = True


def _free(born: int, free: Callable[[], None], needs: tuple[object, ...]) -> None:
    if born == _forks:  # the memory of a parent is the parent's to free
        free()


class Closable:
    """What can be closed once, together with all that depends on it; a context manager.

    Parameters
    ----------
    name, remedy
        For the message of an error: what is closed, and what to do then.
    owner
        What it depends on.
    """

    def __init__(self, name: str, remedy: str, owner: Closable | None = None) -> None:
        self._name, self._remedy = name, remedy
        self._born = _forks
        self._closed_because: str | None = None
        self._pointer: Any = None
        self._dependants: dict[int, weakref.ref[Closable]] = {}
        if owner is None:
            _depends(_roots, self)
        else:
            owner.adopt(self)

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> str:
        """Refuse to be copied or pickled: what it has lies in the memory of this process."""
        raise ScopeError(f"{self._name} can't be copied or sent to another process: {_BY_SPAWN}")

    def adopt(self, dependant: Closable) -> None:
        """Close `dependant` before this is closed."""
        _depends(self._dependants, dependant)
        self.check_open()  # it may have been closed by another thread just now

    @property
    def ptr(self) -> Any:
        """The native object's pointer.

        Raises
        ------
        ScopeError
            If this is closed.
        """
        return self._checked(self._pointer)

    @property
    def closed(self) -> bool:
        """Whether this can't be used any more."""
        return self._closed_because is not None or self._born != _forks

    def check_open(self) -> None:
        """Raise a ScopeError if this is closed."""
        if self._closed_because is not None:
            raise ScopeError(self._closed_because)
        if self._born != _forks:
            raise ScopeError(f"{self._name} was made before this process was forked: {_BY_SPAWN}")

    def close(self) -> None:
        """Close this and all that depends on it; further calls do nothing.

        A call that runs in another thread is waited for; its thread gets an error at the next one.
        """
        self._close(f"{self._name} is closed: {self._remedy}")

    def _close(self, because: str) -> None:
        if self._closed_because is None:
            self._closed_because = because
        for dependant in _living(self._dependants):
            dependant._close(because)
        pointer, self._pointer = self._pointer, None
        self._release()
        if pointer is not None and self._born == _forks:
            with pointer.lock:
                pass

    def _release(self) -> None:
        """Let go of what is held beside the pointer; may be called again, or while it is made."""

    def _checked(self, pointer: P | None) -> P:
        """Return a pointer of this, if it is open."""
        if pointer is None or self._born != _forks:
            self.check_open()
        assert pointer is not None
        return pointer


_roots: dict[int, weakref.ref[Closable]] = {}


def _depends(on: dict[int, weakref.ref[Closable]], dependant: Closable) -> None:
    key = id(dependant)
    on[key] = weakref.ref(dependant, lambda _: on.pop(key, None))


def _living(references: dict[int, weakref.ref[Closable]]) -> list[Closable]:
    """What is left of some dependants, the latest first."""
    found = [reference() for reference in list(references.values())]
    return [dependant for dependant in reversed(found) if dependant is not None]


def _close_all() -> None:
    for root in _living(_roots):
        root.close()


def _forked() -> None:
    global _forks, _threads_lost
    _forks += 1
    _threads_lost = _computes


weakref.finalize(Closable, _close_all)  # at exit; in time, while other finalizers still run
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
