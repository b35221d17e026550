"""Who comes next when several clients wait: each in turn, in its own order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of several clients; `pop` takes one of each client in turn.

    A client that has just been served goes to the end, so that one with a hundred items delays
    another by one item only.
    """

    def __init__(self) -> None:
        self._clients: OrderedDict[Hashable, OrderedDict[Hashable, T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def put(self, client: Hashable, key: Hashable, item: T) -> None:
        """Add an item under a key, by which `remove` finds it."""
        self._clients.setdefault(client, OrderedDict())[key] = item

    def pop(self) -> T | None:
        """Take the next item; ``None`` if there is none."""
        if not self._clients:
            return None
        client, items = self._clients.popitem(last=False)
        _, item = items.popitem(last=False)
        if items:
            self._clients[client] = items
        return item

    def remove(self, client: Hashable, key: Hashable) -> bool:
        """Forget an item; whether there was one."""
        items = self._clients.get(client)
        if items is None or items.pop(key, None) is None:
            return False
        if not items:
            del self._clients[client]
        return True
