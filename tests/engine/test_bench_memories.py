"""scope bench on models with sliding windows or recurrent states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.bench.measure import Bench
from scope_cpp.bench.request import FLASH, Request
from scope_cpp.bench.row import Compute, Row
from scope_cpp.bench.stock import StockRow
from scope_cpp.engine.model import Model
from scope_cpp.errors import UsageError
from scope_cpp.native.library import llama_cpp

Tiny = Callable[..., Path]

WINDOWED, HYBRID = "gemma3", "qwen35"
both = pytest.mark.parametrize("arch", [WINDOWED, HYBRID])


def compute(path: Path) -> Compute:
    return Compute(str(path), n_threads=1, n_threads_batch=1)


def asked(path: Path, **more: Any) -> Request:
    given = {"n_prompts": (40,), "depths": (150,), "n_gen": 4, "repetitions": 1, "beta": 48}
    given |= {"flash": ("on",), "n_parallel": (2,), **more}
    return Request(compute(path), **given)


@both
@pytest.mark.parametrize("test", ["gen", "prompt", "parallel", "turn"])
def test_every_test_has_numbers(tiny_arch: Tiny, arch: str, test: str) -> None:
    keys = {"context_length": 8192}
    request = asked(tiny_arch(arch=arch, **keys), tests=(test,))
    report = Bench(request, warn=lambda line: None).run()
    assert [outcome.error for outcome in report.outcomes] == [None] * len(report.outcomes)
    bounded = [outcome for outcome in report.outcomes if outcome.row.bounded]
    assert bounded and all(len(outcome.blocks[0]["seconds"]) for outcome in report.outcomes)
    if test == "gen":
        used = {o.row.role: o.blocks[-1]["cells_used"] for o in report.outcomes}
        assert used == {"full": 151, "same": 88, "bounded": 88}
        # llama.cpp's log says it of full rows, our count of bounded ones: of as many cells, equal
        kv = {o.row.role: o.facts["kv_mib"] for o in report.outcomes}
        assert kv["bounded"] == pytest.approx(kv["same"], abs=0.011)  # two digits for each part


@both
@pytest.mark.parametrize("flash", FLASH)
@pytest.mark.parametrize("n_read", [1, 30])
def test_a_full_row_is_put_back(tiny_arch: Tiny, arch: str, flash: str, n_read: int) -> None:
    """Its window is passed long ago, and its state can't be cut: each step has the same logits."""
    row = Row("gen", "full", flash, 200, n_read=n_read, depth=199, fill="decode")
    subject = StockRow(row, compute(tiny_arch(arch=arch)))
    subject.prepare()
    seen = []
    for _ in range(3):
        subject._token = subject.tokens[0]
        subject.step()
        logits = llama_cpp.llama_get_logits_ith(subject.ctx, -1)
        seen.append(np.ctypeslib.as_array(logits, (subject.n_vocab,)).copy())
        subject.restore()
        assert subject.state()["cells_used"] == 200
    np.testing.assert_allclose(seen[1], seen[0], atol=1e-4)
    np.testing.assert_array_equal(seen[2], seen[1])


@both
def test_copies_are_refused(tiny_arch: Tiny, arch: str) -> None:
    with Model.load(tiny_arch(arch=arch), no_alloc=True) as model:
        request = asked(model.path, fill="copy")
        with pytest.raises(UsageError, match=r"--fill copy: .* leave it out, or give decode"):
            request.rows("gen", model)
        assert {row.fill for row in asked(model.path).rows("gen", model)} == {"decode"}
