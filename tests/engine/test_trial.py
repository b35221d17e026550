"""Files that end llama.cpp end a process of their own: here it is one line."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from scope_cpp.engine import known_files, trial
from scope_cpp.engine.model import Model
from scope_cpp.engine.split_name import part_paths
from scope_cpp.errors import ScopeError
from tests.conftest import Tiny
from tests.damaged import (
    COMPUTED,
    FATAL,
    LOADED,
    STRING,
    U32,
    Gguf,
    Tensor,
    encode,
    good,
    setting,
    write_damaged,
)


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[..., Path]:
    """Write a changed copy of a good file."""
    return partial(write_damaged, tmp_path / "model.gguf")


def refusal(path: Path, **how: bool) -> str:
    with pytest.raises(ScopeError) as caught:
        Model.load(path, **how).close()
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert caught.value.exit_code == 1
    return message


@pytest.mark.parametrize("name", FATAL)
def test_what_llama_cpp_gives_up_on_is_one_line(damaged: Callable[..., Path], name: str) -> None:
    change, step, reason = FATAL[name]
    message = refusal(damaged(change))
    assert f"llama.cpp gives up while {step} (" in message
    assert reason in message
    assert message.endswith("download it again, or convert it anew")


@pytest.mark.parametrize("tokenizer", [b"none", b"no_vocab"])
def test_without_a_vocabulary(damaged: Callable[..., Path], tokenizer: bytes) -> None:
    path = damaged(setting("tokenizer.ggml.model", STRING, tokenizer))
    for no_alloc in (True, False):
        assert refusal(path, no_alloc=no_alloc).endswith("it can neither read nor write text")


def test_a_vocabulary_of_another_kind_than_it_says(damaged: Callable[..., Path]) -> None:
    message = refusal(damaged(setting("tokenizer.ggml.model", STRING, b"bert")))
    assert "llama.cpp" in message


@pytest.mark.parametrize("base", ["reference", "qwen2", "qwen3", "phi3", "experts", "bpe", "rwkv"])
def test_good_files_of_every_kind_pass(damaged: Callable[..., Path], base: str) -> None:
    with Model.load(damaged(lambda file: None, base)) as model:
        assert model.n_vocab > 100


def test_without_weights_nothing_is_computed(damaged: Callable[..., Path]) -> None:
    path = damaged(FATAL["negative epsilon"][0])
    with Model.load(path, no_alloc=True) as model:
        assert model.n_layer == 2
    assert COMPUTED in refusal(path)  # that it passed without does not count


def test_a_vocabulary_larger_than_the_memory(damaged: Callable[..., Path]) -> None:
    def change(file: Gguf) -> None:
        file.pairs = [pair for pair in file.pairs if not pair.key.startswith(b"tokenizer.")]
        file.set("tokenizer.ggml.model", STRING, b"rwkv")
        file.set("llama.vocab_size", U32, 2**32 - 1)

    refusal(damaged(change))


def test_one_that_does_not_end(tiny: Tiny) -> None:
    ending = trial.run(tiny(), 1, 1e-3, 1 << 32)
    assert ending.code == -signal.SIGPROF
    message = trial.explain(tiny(), ending, 1e-3)
    assert "is not done after 0.0 s while" in message


def test_one_that_crashes(tiny: Tiny) -> None:
    message = trial.explain(tiny(), trial.Ending(-signal.SIGSEGV, LOADED, "", ()), 1.0)
    assert "llama.cpp crashes while it is loaded (SIGSEGV)" in message


def test_python_that_cannot_be_started(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(ScopeError, match="cannot be started to try it out first") as caught:
        trial.run(tiny(), 0, 1.0, 1 << 32)
    assert "No such file" in str(caught.value)


# -- what is remembered


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Threads of each trial that ran; nothing is known yet."""
    ran: list[int] = []
    run = trial.run

    def count(path: Path, n_threads: int, seconds: float, n_bytes: int) -> trial.Ending:
        ran.append(n_threads)
        return run(path, n_threads, seconds, n_bytes)

    monkeypatch.setattr(trial, "run", count)
    monkeypatch.setattr(known_files, "_here", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return ran


def load(path: Path, **how: bool) -> None:
    Model.load(path, **how).close()


def test_a_file_is_tried_once(
    damaged: Callable[..., Path], counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = damaged(lambda file: None)
    for _ in range(3):
        load(path)
        monkeypatch.setattr(known_files, "_here", set())  # as another process
    assert counted == [1]
    load(path, no_alloc=True)  # that is less
    assert counted == [1]
    path.write_bytes(path.read_bytes() + b"x")
    load(path)
    assert counted == [1, 1]


def test_the_header_alone_is_not_enough_later(
    damaged: Callable[..., Path], counted: list[int]
) -> None:
    path = damaged(lambda file: None)
    load(path, no_alloc=True)
    load(path)
    load(path, no_alloc=True)
    assert counted == [0, 1]


def test_a_bad_file_is_tried_each_time(damaged: Callable[..., Path], counted: list[int]) -> None:
    path = damaged(FATAL["no layers"][0])
    for _ in range(2):
        refusal(path)
    assert counted == [1, 1]


def test_another_library_is_another_matter(
    damaged: Callable[..., Path],
    counted: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = damaged(lambda file: None)
    load(path)
    monkeypatch.setattr(known_files, "library_path", lambda: tmp_path)
    load(path)
    assert counted == [1, 1]


def test_a_home_that_cannot_be_written(
    damaged: Callable[..., Path],
    counted: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    path = damaged(lambda file: None)
    load(path)
    load(path)
    assert counted == [1]
    monkeypatch.setattr(known_files, "_here", set())
    load(path)
    assert counted == [1, 1]


def test_the_oldest_are_forgotten(
    counted: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(known_files, "_MAX_FILES", 3)
    paths = [tmp_path / f"{i}.gguf" for i in range(5)]
    for i, path in enumerate(paths):
        path.write_text(path.name)
        known_files.remember((path,), True)
        newest = max(known_files.folder().iterdir(), key=lambda entry: entry.stat().st_mtime_ns)
        os.utime(newest, ns=(i, i))
    monkeypatch.setattr(known_files, "_here", set())
    assert [known_files.is_known((path,), True) for path in paths] == [False] * 2 + [True] * 3


def test_a_file_larger_than_the_free_memory_is_not_decoded(
    damaged: Callable[..., Path], counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "host_free_memory", lambda: 1000)
    path = damaged(lambda file: None)
    load(path)
    assert counted == [0]


# -- models in parts


def split(file: Gguf, folder: Path) -> tuple[Path, Path]:
    """Write a model as two files; the second has the later half of the tensors."""
    middle = len(file.tensors) // 2
    at = file.tensors[middle].offset
    halves = (
        replace(file, tensors=file.tensors[:middle], data=file.data[:at]),
        Gguf(
            file.version,
            [],
            [Tensor(t.name, t.dims, t.kind, t.offset - at) for t in file.tensors[middle:]],
            file.data[at:],
        ),
    )
    paths = []
    for number, half in enumerate(halves):
        half.pairs = [*half.pairs]
        half.set("split.no", 2, number)
        half.set("split.count", 2, 2)
        half.set("split.tensors.count", 5, len(file.tensors))
        path = folder / f"whole-0000{number + 1}-of-00002.gguf"
        path.write_bytes(encode(half))
        paths.append(path)
    return paths[0], paths[1]


def test_all_parts_count(counted: list[int], tmp_path: Path) -> None:
    first, second = split(good("llama"), tmp_path)
    assert part_paths(first) == part_paths(second) == (first, second)
    load(first)
    load(first)
    assert counted == [1]
    os.utime(second, ns=(1, 1))
    load(first)
    assert counted == [1, 1]
    second.unlink()
    assert "whole-00002-of-00002.gguf" in refusal(first)


# -- the process


def test_ctrl_c_ends_both(tiny: Tiny, tmp_path: Path) -> None:
    """The trial's process here waits without end, and holds our end of a pipe while it lives."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, signal\nos.write(int(os.environ['PIPE']), b'x')\nsignal.pause()\n"
    )
    program = (
        "import subprocess, sys\n"
        "from pathlib import Path\n"
        "from scope_cpp.engine import trial\n"
        "popen = subprocess.Popen\n"
        "trial.subprocess.Popen = lambda *a, **k: popen(*a, **k, pass_fds=[int(sys.argv[3])])\n"
        "trial._WORKER = Path(sys.argv[1])\n"
        "trial.run(Path(sys.argv[2]), 0, 9.0, 1 << 32)\n"
    )
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(worker), str(tiny()), str(write)],
        env={**os.environ, "PIPE": str(write)},
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
    ) as process:
        os.close(write)
        assert os.read(read, 1) == b"x"
        process.send_signal(signal.SIGINT)
        assert os.read(read, 1) == b""  # nobody holds it any more
        assert process.wait() == -signal.SIGINT
    os.close(read)


def test_no_device_is_used_and_no_debugger_called(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    popen = subprocess.Popen

    def note(*args: object, **options: object) -> object:
        seen.update(options)
        return popen(*args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", note)
    assert trial.run(tiny(), 1, 9.0, 1 << 32).code == 0
    assert seen["env"]["CUDA_VISIBLE_DEVICES"] == "-1"
    assert seen["env"]["GGML_NO_BACKTRACE"] == "1"
    assert seen["start_new_session"]


ABORT = """
import ctypes, sys
from scope_cpp.native.library import llama_cpp
from scope_cpp.native.last_words import exit_on_abort
if sys.argv[1] == "ours":
    exit_on_abort()
llama_cpp.llama_cpp._lib.ggml_abort(b"/build/src/some.cpp", 7, b"no \\x1b[31m%d", 5)
"""


OURS = "error: llama.cpp gave up, the model's file may be damaged: some.cpp:7: no  [31m5"


@pytest.mark.parametrize(
    ("whose", "code", "line"),
    [
        (
            "ours",
            1,
            "error: llama.cpp gave up, the model's file may be damaged: some.cpp:7: no  [31m5",
        ),
        ("theirs", -signal.SIGABRT, "/build/src/some.cpp:7: no \x1b[31m5"),
    ],
)
def test_where_llama_cpp_aborts_after_all(whose: str, code: int, line: str) -> None:
    """One line and exit code 1 in a process of ours; no debugger in that of others either."""
    result = subprocess.run(
        [sys.executable, "-c", ABORT, whose],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert (result.returncode, result.stdout, result.stderr) == (code, "", line + "\n")


def test_a_terminal_is_left_as_it_was() -> None:
    """A chat hides the cursor and what is typed while an answer is written."""
    program = ABORT.replace(
        "llama_cpp.llama_cpp._lib",
        "import termios; mode = termios.tcgetattr(0); mode[3] &= ~termios.ECHO\n"
        "termios.tcsetattr(0, termios.TCSANOW, mode); llama_cpp.llama_cpp._lib",
    )
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    assert before[3] & termios.ECHO
    process = subprocess.run(
        [sys.executable, "-c", program, "ours"],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.returncode == 1
    assert termios.tcgetattr(theirs) == before
    assert os.read(ours, 4096).decode() == f"\x1b[0m\x1b[?25h\r\n{OURS}\r\n"
    os.close(ours)
    os.close(theirs)
