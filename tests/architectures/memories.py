"""Architectures that can be bounded, and whose memory is not the same in every layer.

It has more than the cells that are chosen, or layers have different numbers of heads.
"""

from __future__ import annotations

from tests.architectures.table import ARCHITECTURES, FAMILIES, WINDOW

# every one of its layers that attends at all attends to a window
_FULL_CACHE_ONLY = ("lfm2-windowed",)

WINDOWED, RECURRENT = (
    [name for name in FAMILIES[f"a {what} in some of the layers"] if name not in _FULL_CACHE_ONLY]
    for what in ("window", "recurrent state")
)
# the window of others is fixed in llama.cpp
SHORT_WINDOWS = [
    name
    for name in WINDOWED
    if ARCHITECTURES[name].keys.get("attention.sliding_window") == WINDOW and name != "smallthinker"
]
DIFFERING = ["deci-pruned", "openelm-growing"]
# later layers that attend to the cells of an earlier one
READERS = {"gemma3n": {19: 21}, "gemma4": {3: 5}}
