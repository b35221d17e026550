"""How many workers a cluster has room for, and what each gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scope_cpp.errors import UsageError


@dataclass(frozen=True)
class Share:
    """What each worker gets.

    Attributes
    ----------
    n_workers
    n_cpus, n_gpus
        Ray's resources of each.
    n_sharing
        Most workers on one machine.
    """

    n_workers: int
    n_cpus: int
    n_gpus: int
    n_sharing: int

    def __str__(self) -> str:
        each = " each" if self.n_workers > 1 else ""
        return f"{_counted(self.n_workers, 'worker')} with {_part(self.n_cpus, self.n_gpus)}{each}"


def share(
    machines: Sequence[Mapping[str, float]], n_workers: int | None, n_threads: int, offload: bool
) -> Share:
    """Divide the machines among workers.

    Parameters
    ----------
    machines
        Ray's resources (``CPU``, ``GPU``) of each that is alive.
    n_workers
        ``None``: one for each GPU if the model is offloaded and there are any, else one for each
        machine.
    n_threads
        Of each worker; 0: as many as there is room for.
    offload
        Whether the model goes to a GPU.

    Raises
    ------
    UsageError
        If there is no room for so many.
    """
    on_gpu = offload and any(machine.get("GPU", 0) >= 1 for machine in machines)
    n_gpus = [int(machine.get("GPU", 0)) for machine in machines]
    cpus = [int(machine.get("CPU", 0)) for machine in machines]
    wanted = n_workers or (sum(n_gpus) if on_gpu else sum(n > 0 for n in cpus)) or 1

    def places(n_cpus: int) -> list[int]:
        most = n_gpus if on_gpu else [wanted] * len(machines)
        return [min(wanted, n // n_cpus, m) for n, m in zip(cpus, most, strict=True)]

    fitting = (n for n in range(max(cpus, default=1), 0, -1) if sum(places(n)) >= wanted)
    n_cpus = n_threads or next(fitting, 1)
    found = places(n_cpus)
    if sum(found) < wanted:
        raise UsageError(
            f"Ray has room for {_counted(sum(found), 'worker')} with {_part(n_cpus, on_gpu)} each, "
            f"not for {wanted}: give fewer --ray-workers or --threads"
        )
    return Share(wanted, n_cpus, int(on_gpu), max(found))


def _part(n_cpus: int, n_gpus: int) -> str:
    return _counted(n_cpus, "CPU") + (" and a GPU" if n_gpus else "")


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
