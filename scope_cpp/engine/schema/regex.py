"""Regular expressions of JSON schemas, translated into those of the constraint engine.

JSON Schema takes ECMAScript's expressions, Python's validators take Python's. Where the two differ,
the translation matches what both match, so that an answer is valid for either. What cannot be
translated is refused: the engine's own parser reads some of it as something else (``[a&&b]``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""(?P<look>\(\?(?:[=!]|<[=!])) | (?P<unclear>\{,\d)
    | (?P<group>\((?:\?:|\?P?<[A-Za-z_]\w*>)?(?!\?)) | (?P<close>\))
    | (?P<bar>\|) | (?P<anchor>[\^$]) | (?P<dot>\.)
    | (?P<repeat>[*+?]\??|\{(?P<low>\d+)(?P<comma>,?)(?P<high>\d*)\}\??)
    | (?P<open_class>\[\^?)
    | (?P<escape>\\.) | (?P<char>[^(\\])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(
    r"""\\(?: (?P<set>[dDwWsS]) | (?P<property>[pP]\{[A-Za-z_=0-9]+\}|[pP][LMNPSZC])
    | u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})
    | u(?P<u>[0-9a-fA-F]{4}) | u\{(?P<code>[0-9a-fA-F]{1,6})\} | x(?P<x>[0-9a-fA-F]{2})
    | c(?P<control>[A-Za-z]) | (?P<nul>0)(?![0-9]) | (?P<named>[tnvfr]) | (?P<back>[1-9]|k)
    | (?P<word>[bB]) | (?P<itself>[^A-Za-z0-9]))""",
    re.VERBOSE | re.DOTALL,
)
MOST_REPEATS = 2**32 - 1  # the engine counts in 32 bits

_NAMED = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}

# what both languages take for white space, and what either of them does
_SPACE = r"\t\n\v\f\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_ANY_SPACE = _SPACE + r"\x{1C}-\x{1F}\x{85}\x{FEFF}"
# what a set certainly matches, and what it may match: the second is for classes that are negated
_SETS = {
    "d": ("[0-9]", r"\p{Nd}"),
    "D": (r"\P{Nd}", "[^0-9]"),
    "w": ("[A-Za-z0-9_]", r"[\p{L}\p{N}_]"),
    "W": (r"[^\p{L}\p{N}_]", "[^A-Za-z0-9_]"),
    "s": (f"[{_SPACE}]", f"[{_ANY_SPACE}]"),
    "S": (f"[^{_ANY_SPACE}]", f"[^{_SPACE}]"),
}
_DOT = r"[^\n\r\x{2028}\x{2029}]"
# Characters that need an escape of four digits are matched by nothing, as texts do not have them.
# llguidance 1.9 does not leave them out: [\x01]a matches "a" there, and [^"] matches a quote.
_WRITABLE = r"[{}&&[^\x{{0}}-\x{{7}}\x{{B}}\x{{E}}-\x{{1F}}\x{{7F}}]]"


def translate(pattern: str) -> str:
    """Return the same expression as the engine writes it.

    Raises
    ------
    ValueError
        For what cannot be translated; the message names it.
    """
    return _Translation(pattern).result


class _Translation:
    """One expression; `result` is the translated one."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0
        depth, repeatable, parts = 0, False, []
        while self._at < len(pattern):
            token = self._take(_TOKEN)
            kind = token.lastgroup
            if kind == "look":
                raise ValueError(f"{token[0]} looks around, which cannot be enforced")
            if kind == "unclear":
                raise ValueError(f"{token[0]}… means different things: write {{0{token[0][1:]}…")
            if kind == "group":
                depth += 1
                parts.append("(?:")
            elif kind == "close":
                depth -= 1
                parts.append(")")
            elif token["repeat"] is not None:
                if not repeatable:
                    raise ValueError(f"nothing to repeat before {token[0]}")
                parts.append(_repetition(token))
            else:
                parts.append(self._plain(token))
            if depth < 0:
                raise ValueError("a closing parenthesis too many")
            repeatable = kind in ("close", "dot", "open_class", "escape", "char")
        if depth:
            raise ValueError("a closing parenthesis is missing")
        self.result = "".join(parts)

    def _take(self, expression: re.Pattern[str]) -> re.Match[str]:
        token = expression.match(self._pattern, self._at)
        if token is None:
            raise ValueError(f"{self._pattern[self._at : self._at + 8]!r} is not known here")
        self._at = token.end()
        return token

    def _plain(self, token: re.Match[str]) -> str:
        if token["open_class"]:
            return self._class(negated=token["open_class"] == "[^")
        if token["escape"]:
            self._at = token.start()
            return _WRITABLE.format(self._escape(wide=False))
        if token["dot"]:
            return _WRITABLE.format(_DOT)
        if token["bar"] or token["anchor"]:
            return token[0]
        return (
            _literal(token[0]) if token[0].isprintable() else _WRITABLE.format(_literal(token[0]))
        )

    def _escape(self, wide: bool) -> str:
        """Translate an escape; `wide`: in a negated class, where a set is what it may match."""
        token = self._take(_ESCAPE)
        if token["set"]:
            return _SETS[token["set"]][wide]
        if token["property"]:
            return token[0]
        if token["back"] or token["word"]:
            raise ValueError(f"{token[0]} cannot be enforced")
        return _literal(_character(token))

    def _class(self, negated: bool) -> str:
        """Translate a class, from behind its opening bracket."""
        if self._pattern.startswith("]", self._at):
            raise ValueError("a class that begins with ] means different things: write \\]")
        members = "".join(self._members(wide=negated))
        return _WRITABLE.format(f"[{'^' if negated else ''}{members}]")

    def _members(self, wide: bool) -> Iterator[str]:
        while not self._pattern.startswith("]", self._at):
            first = self._member(wide)
            ranged = self._pattern.startswith("-", self._at)
            if not ranged or self._pattern[self._at + 1 : self._at + 2] in ("]", ""):
                yield first
                continue
            self._at += 1
            last = self._member(wide)
            is_range = _single(first) and _single(last)
            if is_range and _code(first) > _code(last):
                runs = f"{chr(_code(first))}-{chr(_code(last))}"
                raise ValueError(f"{runs!r} is no range: turn it round")
            yield first + ("-" if is_range else r"\x{2D}") + last
        self._at += 1

    def _member(self, wide: bool) -> str:
        if self._at >= len(self._pattern):
            raise ValueError("a closing bracket is missing")
        if self._pattern.startswith("\\b", self._at):
            self._at += 2
            return _literal("\b")
        if self._pattern[self._at] == "\\":
            return self._escape(wide)
        self._at += 1
        return _literal(self._pattern[self._at - 1])


def _repetition(token: re.Match[str]) -> str:
    """Return a repetition; a lazy one matches the same texts."""
    if token["low"] is None:
        return token["repeat"][0]
    low, high = int(token["low"]), int(token["high"] or 0)
    if token["high"] and high < low:
        raise ValueError(f"{token[0]} repeats at most fewer times than at least")
    if max(low, high) > MOST_REPEATS:
        raise ValueError(f"{token[0]} repeats more than {MOST_REPEATS} times")
    return f"{{{low}{token['comma']}{high if token['high'] else ''}}}"


def _character(token: re.Match[str]) -> str:
    if token["high"]:
        pair = bytes.fromhex(token["high"] + token["low"])
        return pair.decode("utf-16-be")
    code = token["u"] or token["code"] or token["x"]
    if code:
        if int(code, 16) > 0x10FFFF:
            raise ValueError(f"{token[0]} is no character")
        return chr(int(code, 16))
    if token["control"]:
        return chr(ord(token["control"]) % 32)
    if token["nul"]:
        return "\0"
    return _NAMED.get(token["named"] or "", token["itself"] or "")


def _single(member: str) -> bool:
    """Whether a member is one character, not a set."""
    return member.startswith("\\x{") or len(member) == 1


def _code(member: str) -> int:
    """Return the code point of a member that is one character, see `_literal`."""
    return ord(member) if len(member) == 1 else int(member[3:-1], 16)


def _literal(char: str) -> str:
    if "\ud800" <= char <= "\udfff":
        raise ValueError("half a surrogate pair matches nothing")
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):X}}}"
