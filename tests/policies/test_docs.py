"""The flags that docs/policies.md names are flags that there are, and it names every policy."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scope_cpp.policies import (
    decode_policies,
    find_decode,
    find_prefill,
    make_decode,
    make_prefill,
    parse_options,
    prefill_policies,
    split_options,
)

TEXT = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
LINES = sorted(set(re.findall(r"`(-[-\w]+ [^`]*[^`=])`", TEXT)))
FLAGS = {"--policy": "scope-slide", "--prefill": "full"}


@pytest.mark.parametrize("line", LINES)
def test_flags_are_valid(line: str) -> None:
    words = shlex.split(line)
    given = list(zip(words[::2], words[1::2], strict=True))
    if not {flag for flag, _ in given} <= {"--policy", "--prefill", "-o"}:
        return  # other flags are checked where they belong
    names = {**FLAGS, **{flag: value for flag, value in given if flag != "-o"}}
    decode, prefill = find_decode(names["--policy"]), find_prefill(names["--prefill"])
    options = parse_options([value for flag, value in given if flag == "-o"])
    of_decode, of_prefill = split_options(decode, prefill, options)
    make_decode(decode.name, of_decode)
    make_prefill(prefill.name, of_prefill)


def test_every_policy_is_named() -> None:
    assert len(LINES) > 30
    for flag, policies in (("--policy", decode_policies()), ("--prefill", prefill_policies())):
        for name in policies:
            assert f"{flag} {name}" in TEXT, name
