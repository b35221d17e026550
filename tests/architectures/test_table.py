"""The table of architectures is complete, and the document that is made of it is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gguf.constants import MODEL_ARCH_NAMES

from tests.architectures.table import ARCHITECTURES, NOT_MADE
from tests.architectures.verdicts import DOCS, render
from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {entry.arch or name for name, entry in ARCHITECTURES.items()} | set(NOT_MADE)


def test_every_architecture_of_the_gguf_package_is_in_the_table() -> None:
    assert set(MODEL_ARCH_NAMES.values()) <= KNOWN


def test_every_architecture_of_llama_cpp_is_in_the_table() -> None:
    sources = sorted(ROOT.glob("build/cmake*/**/src/llama-arch.cpp"))
    if not sources:
        pytest.skip("llama.cpp's source is not below build/: scripts/build_native.py brings it")
    named = re.findall(r'\{ LLM_ARCH_\w+, *"([^"(]+)" *\}', sources[0].read_text())
    assert len(named) > 100
    assert set(named) == KNOWN


@pytest.mark.skipif(not DOCS.exists(), reason="docs/architectures.md is still to be written")
def test_the_document_says_what_becomes_of_every_model(tiny_arch: Tiny) -> None:
    assert DOCS.read_text() == render(lambda name: tiny_arch(arch=name)), (
        "run python -m tests.architectures.verdicts --write"
    )
