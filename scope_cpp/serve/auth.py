"""Who may ask: API keys, and names of this machine."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from scope_cpp.errors import UsageError
from scope_cpp.serve.errors import ApiError


def is_loopback(host: str) -> bool:
    """Whether `host`, an address or ``localhost``, stands for this machine only."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets a request pass or refuses it.

    Parameters
    ----------
    keys
        Any of them opens the server; none: it is open.
    local
        Whether only this machine can reach it. Without keys it then answers to names of this
        machine only: a web page elsewhere may point a name of its own here and ask in the name of
        whoever looks at it (DNS rebinding).

    Raises
    ------
    UsageError
        If a key is empty or can't be sent in a header.
    """

    def __init__(self, keys: Sequence[str], local: bool) -> None:
        if any(not key or not key.isascii() or not key.isprintable() for key in keys):
            raise UsageError("an API key is empty or has characters that no header can have")
        self._keys = [key.encode("ascii") for key in keys]
        self._local = local

    def admit(self, headers: Mapping[str, str], is_open: bool) -> int | None:
        """Check a request; `is_open`: it needs no key. Return the number of its key.

        Raises
        ------
        ApiError
            401 or 403.
        """
        if not self._keys:
            self._require_own_name(headers)
            self._require_own_page(headers)
            return None
        return None if is_open else self._require_key(headers)

    def _require_key(self, headers: Mapping[str, str]) -> int:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        sent = given.strip().encode("utf-8", errors="replace")
        # all are compared, so that the time does not tell which one it was
        found = [hmac.compare_digest(sent, key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(found):
            raise ApiError(
                401,
                "no valid API key: send the header Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found.index(True)

    def _require_own_name(self, headers: Mapping[str, str]) -> None:
        if self._local and not is_loopback(_name(headers.get("host", ""))):
            raise ApiError(
                403,
                "this server answers to names of this machine only, such as localhost; "
                "others need an API key",
                code="host_refused",
            )

    def _require_own_page(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != headers.get("host", "").lower():
            raise ApiError(
                403,
                "this server answers to its own page only; pages of other sites need an API key",
                code="origin_refused",
            )


def _netloc(origin: str) -> str | None:
    """Host and port of an origin, ``None`` if it has none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
