"""``--ray [ADDRESS]``: the same work on several machines or GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from . import completion
from .app import ScopeCommand
from .flags import PlacementFlags
from .groups import flag

if TYPE_CHECKING:
    from scope_cpp.batch.job import Engines
    from scope_cpp.engine.model import Model
    from scope_cpp.engine.settings import Settings

_ray = partial(flag, "Several machines or GPUs (needs scope-cpp[ray])")

# What --ray takes for its address, and not for a model or a file
_ADDRESS = re.compile(r"auto|local|(ray://)?([\w.-]+|\[[\da-fA-F:]+\]):\d+")


@dataclass(frozen=True)
class RayFlags:
    """One engine for each GPU or machine of a Ray cluster."""

    ray: Annotated[
        str | None,
        _ray(
            "--ray",
            metavar="[ADDRESS]",
            complete=completion.words("auto", "local"),
            help="Run on the Ray cluster at HOST:PORT, or at auto, which is this machine's. Without"
            " an address a cluster is started here. -t, -np and --cells hold for each engine.",
        ),
    ] = None
    ray_workers: Annotated[
        int | None,
        _ray(
            "--ray-workers",
            min=1,
            metavar="N",
            help="Number of engines.",
            show_default="one for each GPU, or for each machine if there is none",
        ),
    ] = None


class RayCommand(ScopeCommand):
    """A command whose ``--ray`` may go without its address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give ``--ray`` an address, then parse as usual."""
        return super().parse_args(ctx, list(_with_address(args)))


def _with_address(args: list[str]) -> Iterator[str]:
    for place, arg in enumerate(args):
        yield arg
        if arg == "--":
            yield from args[place + 1 :]
            return
        following = args[place + 1 : place + 2]
        if arg == "--ray" and not (following and _ADDRESS.fullmatch(following[0])):
            yield "local"


def load_model(flags: RayFlags, path: str, placement: PlacementFlags) -> Model:
    """Load the model; not its weights, if workers compute with them.

    Raises
    ------
    UsageError
        If workers are asked for, but no cluster.
    """
    from scope_cpp.engine.model import Model
    from scope_cpp.errors import UsageError

    from . import convert

    if flags.ray is not None:
        values = {**convert.placement(placement), "use_mlock": False}
        return Model.load(path, no_alloc=True, **values)
    if flags.ray_workers is not None:
        raise UsageError("--ray-workers are of a Ray cluster: give --ray too")
    return convert.load_model(path, placement)


@contextmanager
def engines(
    flags: RayFlags, settings: Settings, placement: PlacementFlags, model: Model
) -> Iterator[Engines | None]:
    """Give the cluster's engines; ``None`` if there shall be one in this process.

    Raises
    ------
    UsageError, ScopeError
        See `scope_cpp.batch.ray_cluster.cluster`.
    """
    if flags.ray is None:
        yield None
        return
    from scope_cpp.batch.job import Engines
    from scope_cpp.batch.ray_cluster import cluster
    from scope_cpp.batch.ray_runner import RayRunner
    from scope_cpp.engine.session_model import identify

    from . import convert, terminal

    with cluster(
        flags.ray,
        n_workers=flags.ray_workers,
        n_threads=settings.n_threads,
        placement=convert.placement(placement),
    ) as found:
        terminal.note(f"Ray: {found.share}")
        yield Engines(
            lambda plan: RayRunner(found, plan, identify(model), terminal.warning),
            count=found.share.n_workers,
            memory_parts=found.memory_parts,
        )
