"""What outlives its owner: an error that says so, in a process that could crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Tiny
from tests.engine import lifetime_child

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "scenario", ["together", *(made.__name__ for made in lifetime_child.ALONE)]
)
def test_lifetimes(tiny: Tiny, scenario: str) -> None:
    path = tiny(chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}")
    child = [sys.executable, "-m", lifetime_child.__name__, scenario, str(path)]
    done = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    assert done.stderr == ""
