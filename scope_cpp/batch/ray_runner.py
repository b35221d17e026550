"""The same file over many machines: a runner whose engines are Ray actors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scope_cpp.batch.ray_cluster import Cluster
from scope_cpp.batch.ray_dispatch import MOST_DEATHS, Dispatch
from scope_cpp.batch.ray_fleet import RayFleet
from scope_cpp.batch.record import Record, failed
from scope_cpp.batch.rows import FAILED, Failure, Row
from scope_cpp.batch.runner import AHEAD, Plan, Status
from scope_cpp.engine.generate import Warn


class RayRunner(Dispatch[Row, Record]):
    """A `scope_cpp.batch.runner.Runner`; a context manager.

    Parameters
    ----------
    cluster
    plan
        Of each worker; 0 threads: a machine's cores are shared by its workers.
    identity
        `scope_cpp.engine.session_model.identify` of the model, which each worker's must have.
    warn
        Called with one line for each thing the user should know.
    """

    def __init__(
        self, cluster: Cluster, plan: Plan, identity: Mapping[str, Any], warn: Warn
    ) -> None:
        plan = replace(plan, path=os.path.abspath(plan.path))
        self._workers = RayFleet(cluster, plan, identity, warn)
        n_workers = cluster.share.n_workers
        super().__init__(self._workers, n_workers, plan.n_parallel + AHEAD, _given_up)

    def __enter__(self) -> RayRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> Status:
        """See `Runner`: the sum over the workers."""
        return self._workers.status()

    def close(self) -> None:
        """See `Runner`."""
        self._workers.close()


def _given_up(row: Row, reason: str) -> Record:
    message = (
        f"its worker {reason}, {MOST_DEATHS} times, the last time with this row alone: look "
        "whether it asks for more memory than there is"
    )
    return failed(row, Failure(FAILED, message))
