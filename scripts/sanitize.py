"""Run the tests on a libllama that checks every memory access: AddressSanitizer and UBSan.

``scripts/sanitize`` builds it, runs all tests, folder by folder, each in a process of its own, and
says what was found; options are files or folders of tests. Whatever Python passes to native code
is checked too, because all allocations of the process are the sanitizer's. The exit status is 1 if
anything was found, and 2 if nothing was but tests failed.

Tests that can't hold under a sanitizer are left out, see `LEFT_OUT`. Those that compare with stock
llama.cpp are skipped: the two builds round differently.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from build_native import ROOT, BuildError, build

INTO = ROOT / "build" / "sanitize"
REPORTS = INTO / "reports"

# an address space of 20 TB belongs to AddressSanitizer, so no process can have a smaller one, and
# what it keeps of freed memory would count as data of a process
SHIM = """
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
int setrlimit(__rlimit_resource_t resource, const struct rlimit * limit) {
    if (resource == RLIMIT_AS || resource == RLIMIT_DATA) return 0;
    return (int) syscall(SYS_prlimit64, 0, resource, limit, 0);
}
int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 * limit) {
    return setrlimit(resource, (const struct rlimit *) limit);
}
"""

# tests, by what pytest's --deselect and --ignore take, and why each is left out
LEFT_OUT = {
    "tests/native/test_tokenize.py::test_a_long_run_of_one_kind_does_not_overflow_the_stack": (
        "std::regex takes several times as much of the stack with guards around its frames"
    ),
    "tests/engine/test_endurance.py": "its processes would be measured with what the guards take",
    "tests/engine/test_footprint.py::test_the_process_grows_by_what_was_forecast": "as above",
    "tests/text/test_chat.py::test_the_memory_has_a_bound_of_its_own": (
        "no process that the sanitizer watches can have a bound of its address space"
    ),
    "tests/build": "builds and installs other copies of the library",
    "tests/serve/test_page.py": "a browser does not start with a preloaded library",
    "tests/batch/test_ray_command.py": "Ray's own processes do not start with a preloaded library",
    "tests/batch/test_ray_dispatch.py": "as above",
    "tests/batch/test_ray_fleet.py": "as above",
    "tests/batch/test_ray_share.py": "as above",
    "tests/batch/test_ray.py": "as above",
    "tests/cli/test_batch_ray.py": "as above",
}


@dataclass(frozen=True)
class Finding:
    """One kind of report: what is wrong, where, and in which files of reports it stands."""

    kind: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}"


def environment(libraries: Iterable[str], base: Mapping[str, str]) -> dict[str, str]:
    """Variables of a process whose native code is checked, and of those that it starts."""
    env = {name: value for name, value in base.items() if name != "SCOPE_STOCK_LIB"}
    common = f"log_path={REPORTS / 'report'}"
    return env | {
        "LD_PRELOAD": " ".join(libraries),
        "LLAMA_CPP_LIB_PATH": str(INTO / "llama_cpp" / "lib"),
        # what Python allocates is surrounded by guards as well
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": f"detect_leaks=0:halt_on_error=0:allocator_may_return_null=1:{common}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{common}",
        # its threads would spin on cores that the checks need
        "OMP_WAIT_POLICY": "passive",
        "OPENBLAS_NUM_THREADS": "1",
    }


def preloaded() -> list[str]:
    """Libraries that must be there before Python: the compiler's sanitizers, and the shim.

    Raises
    ------
    BuildError
        If the compiler has none.
    """
    compiler = os.environ.get("CC", "gcc")
    found = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so"):
        command = [compiler, f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        if not Path(path).is_absolute():
            raise BuildError(
                f"{compiler} has no {name}: install it, or set CC to a gcc that has it"
            )
        found.append(os.path.realpath(path))
    shim = INTO / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(shim)]
    if subprocess.run(command, input=SHIM, text=True).returncode != 0:
        raise BuildError(f"{compiler} does not compile the shim")
    return [*found, str(shim)]


_ERROR = re.compile(r"ERROR: AddressSanitizer: ([\w-]+)")
_RUNTIME = re.compile(r"^(\S+?):\d+: runtime error: (.+)$", re.MULTILINE)
_FRAME = re.compile(r"^ *#\d+ 0x[0-9a-f]+ in (.+?) (\S+:\d+(?::\d+)?)$", re.MULTILINE)
_RUNTIME_OF = ("sanitizer", "libsanitizer", "asan_")


def findings(text: str) -> list[Finding]:
    """Reports in the output of the sanitizers, one for each time that something was reported."""
    found = [
        Finding(re.sub(r"0x[0-9a-f]+|-?\d+", "N", match[2]), short(match[0].split(": runtime")[0]))
        for match in _RUNTIME.finditer(text)
    ]
    parts = _ERROR.split(text)[1:]
    for kind, report in zip(parts[::2], parts[1::2], strict=True):
        frames = [place for _, place in _FRAME.findall(report) if not is_runtime(place)]
        found.append(Finding(kind, short(frames[0]) if frames else "an unknown place"))
    return found


def is_runtime(place: str) -> bool:
    """Whether a place is in the sanitizers' own code."""
    return any(name in place for name in _RUNTIME_OF)


def short(place: str) -> str:
    """A place without what lies before the source tree and without the column."""
    place = re.sub(r"^.*/(vendor/llama\.cpp|patches)/", r"\1/", place)
    return re.sub(r"^(.*:\d+):\d+$", r"\1", place)


def folders(chosen: list[str]) -> list[str]:
    """What to run, each in a process of its own."""
    if chosen:
        return chosen
    below = sorted(path for path in (ROOT / "tests").iterdir() if (path / "__init__.py").is_file())
    return [str(path.relative_to(ROOT)) for path in below if f"tests/{path.name}" not in LEFT_OUT]


def run(what: str, env: Mapping[str, str]) -> int:
    """Run the tests of a folder; return pytest's status, below 0 for a signal."""
    out = [f"--ignore={name}" if "::" not in name else f"--deselect={name}" for name in LEFT_OUT]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *out, what]
    return subprocess.run(command, cwd=ROOT, env=dict(env)).returncode


def in_words(status: int) -> str:
    """What pytest's exit status means."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return {0: "passed", 1: "tests failed", 5: "no test"}.get(status, f"exit status {status}")


def summary(statuses: Mapping[str, int], found: Iterable[Finding]) -> tuple[str, int]:
    """What to print at the end, and the exit status."""
    lines = [f"{what}: {in_words(status)}" for what, status in statuses.items()]
    lines += [f"{name}: left out, {why}" for name, why in LEFT_OUT.items()]
    counts = Counter(found)
    lines += [f"FOUND {n} times: {finding}" for finding, n in counts.most_common()]
    ended = any(status < 0 for status in statuses.values())
    lines.append(f"the sanitizers found {len(counts) or 'nothing'}" + f" (reports: {REPORTS})")
    if counts or ended:
        return "\n".join(lines), 1
    return "\n".join(lines), 2 if any(status not in (0, 5) for status in statuses.values()) else 0


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Run the tests under AddressSanitizer and UBSan.")
    parser.add_argument("tests", nargs="*", help="files or folders, below tests/; default: all")
    parser.add_argument("--no-build", action="store_true", help="use what was built before")
    args = parser.parse_args(arguments)
    try:
        if not args.no_build:
            build(INTO, "sanitize", [])
        env = environment(preloaded(), os.environ)
    except (BuildError, OSError) as error:
        print(f"scope-cpp: {error}", file=sys.stderr)
        return 1
    REPORTS.mkdir(parents=True, exist_ok=True)
    for old in REPORTS.glob("report*"):
        old.unlink()
    statuses = {}
    for what in folders(args.tests):
        started = time.monotonic()
        statuses[what] = run(what, env)
        print(f"{what}: {in_words(statuses[what])}, {time.monotonic() - started:.0f} s", flush=True)
    texts = (path.read_text(errors="replace") for path in sorted(REPORTS.glob("report*")))
    text, status = summary(statuses, (finding for text in texts for finding in findings(text)))
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
