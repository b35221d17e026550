"""How machines are divided among workers."""

from __future__ import annotations

import pytest

from scope_cpp.batch.ray_share import Share, share
from scope_cpp.errors import UsageError


@pytest.mark.parametrize(
    ("machines", "n_workers", "n_threads", "offload", "expected"),
    [
        # one worker takes a machine
        ([{"CPU": 8}], None, 0, True, Share(1, 8, 0, 1)),
        ([{"CPU": 8}, {"CPU": 8}], None, 0, False, Share(2, 8, 0, 1)),
        # as many as asked for
        ([{"CPU": 8}], 2, 0, False, Share(2, 4, 0, 2)),
        ([{"CPU": 8}, {"CPU": 8}], 3, 0, False, Share(3, 4, 0, 2)),
        ([{"CPU": 8}], 2, 3, False, Share(2, 3, 0, 2)),
        # one for each GPU
        ([{"CPU": 16, "GPU": 4}], None, 0, True, Share(4, 4, 1, 4)),
        ([{"CPU": 16, "GPU": 1}, {"CPU": 16, "GPU": 8}], None, 0, True, Share(9, 2, 1, 8)),
        ([{"CPU": 64}, {"CPU": 16, "GPU": 2}], None, 0, True, Share(2, 8, 1, 2)),
        ([{"CPU": 16, "GPU": 4}], None, 0, False, Share(1, 16, 0, 1)),
        # a head that computes nothing
        ([{"CPU": 0}, {"CPU": 8}], 2, 0, False, Share(2, 4, 0, 2)),
        ([{"CPU": 0}, {"CPU": 8}], None, 0, False, Share(1, 8, 0, 1)),
    ],
)
def test_share(machines, n_workers, n_threads, offload, expected) -> None:
    assert share(machines, n_workers, n_threads, offload) == expected


@pytest.mark.parametrize(
    ("machines", "n_workers", "n_threads", "message"),
    [
        ([{"CPU": 8}], 9, 0, "room for 8 workers with 1 CPU each, not for 9"),
        ([{"CPU": 8}], 3, 4, "room for 2 workers with 4 CPUs each, not for 3"),
        ([{"CPU": 8, "GPU": 2}], 3, 0, "room for 2 workers with 1 CPU and a GPU each, not"),
        ([], None, 0, "room for 0 workers"),
    ],
)
def test_too_many_are_refused(machines, n_workers, n_threads, message) -> None:
    with pytest.raises(UsageError, match=message):
        share(machines, n_workers, n_threads, offload=True)
