"""The tokens of the reference task: one token for each piece of its texts.

Ids 0 to 2 are special, then come the 256 bytes (any text can be tokenized), then the pieces.
A piece is one token whatever stands around it: llama.cpp splits a text at its longest
user-defined tokens first, so that `` A10`` is never read as `` A1`` and ``0``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from string import ascii_lowercase, digits

UNKNOWN, BOS, EOS = "<unk>", "<s>", "</s>"
UNKNOWN_ID, BOS_ID, EOS_ID = 0, 1, 2
N_SPECIAL = 3
N_BYTES = 256

MAX_LABEL = 256
KEYS = tuple(f" {a}{b}" for a in ascii_lowercase for b in ascii_lowercase)
FILLERS = tuple(f" {word}." for word in ("ah", "eh", "er", "hm", "oh", "ok", "so", "um"))
QUESTIONS = tuple(f" Q{i}" for i in range(1, MAX_LABEL + 1))
ANSWERS = tuple(f" A{i}" for i in range(1, MAX_LABEL + 1))
VALUES = tuple(f"={digit}" for digit in digits)
HEADINGS = ("Facts:", "Questions:", "Answers:")
MARKS = (":", ",", ";", "+", ".", "\n")

BLANK = " "  # one that no piece begins with
PIECES = (*HEADINGS, *MARKS, *VALUES, *digits, *FILLERS, *QUESTIONS, *ANSWERS, *KEYS, BLANK)
TOKENS = (UNKNOWN, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(N_BYTES)), *PIECES)

IDS = {piece: N_SPECIAL + N_BYTES + i for i, piece in enumerate(PIECES)}
_PIECE = re.compile("|".join(map(re.escape, sorted(PIECES, key=len, reverse=True))))


def tokenize(text: str) -> list[int]:
    """Ids of the pieces of `text`, without BOS; what is no piece becomes its UTF-8 bytes."""
    ids: list[int] = []
    end = 0
    for match in _PIECE.finditer(text):
        ids += (N_SPECIAL + byte for byte in text[end : match.start()].encode())
        ids.append(IDS[match.group()])
        end = match.end()
    return ids + [N_SPECIAL + byte for byte in text[end:].encode()]


def detokenize(ids: Iterable[int]) -> str:
    """Text of `ids`; special tokens have none, bytes that are no UTF-8 are replaced."""
    data = bytearray()
    for i in ids:
        if i >= N_SPECIAL + N_BYTES:
            data += TOKENS[i].encode()
        elif i >= N_SPECIAL:
            data.append(i - N_SPECIAL)
    return data.decode(errors="replace")
