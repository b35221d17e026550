"""Loading ggml's backends where they are modules, tried on some that only say who was taken.

The real ones are those of a wheel for any CPU: tests/build/test_variants.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from scope_cpp.errors import ScopeError
from scope_cpp.native import backends
from scope_cpp.native.library import library_path, llama_cpp

OTHER_VERSION = """
int registry[64] = { 999 }; // which begins with the version of the interface

void * ggml_backend_init(void) { return registry; }
"""

MODULE = """
#include <stdio.h>
#include <stdlib.h>

int ggml_backend_score(void) { return SCORE; }

void * ggml_backend_init(void) {
    FILE * log = fopen(getenv("TAKEN"), "a");
    fputs(NAME " ", log);
    fclose(log);
    return NULL; // ggml goes on without it
}
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Folder with modules of the CPU's backend that score 0 (not on this CPU), 1 and 2."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the modules are built with cc, under their names on Linux")
    folder = tmp_path_factory.mktemp("modules")
    source = folder / "module.c"
    source.write_text(MODULE)
    for score, name in enumerate(("newer", "older", "best")):
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-DSCORE={score}", f'-DNAME="{name}"', source]
            + ["-o", folder / f"libggml-cpu-{name}.so"],
            check=True,
        )
    return folder


def taken(code: str, cwd: Path, log: Path, *args: object) -> list[str]:
    """Names of the modules that a process took which ran `code`, and wrote nothing."""
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(root), "TAKEN": str(log)},
        text=True,
        capture_output=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return log.read_text().split() if log.exists() else []


def test_the_best_module_of_a_folder_is_taken_and_none_that_the_cpu_can_not_run(modules, tmp_path):
    code = (
        "import sys\n"
        "from scope_cpp.native import backends\n"
        "from scope_cpp.native.library import llama_cpp\n"
        "backends.load(llama_cpp.llama_cpp._lib, sys.argv[1])\n"
    )
    assert taken(code, tmp_path, tmp_path / "log", modules) == ["best"]


def test_a_module_of_another_version_is_not_taken_and_named(tmp_path):
    """As is one that is none, whose driver may be missing; those of the CPU are no matter."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the module is built with cc, under its name on Linux")
    source = tmp_path / "module.c"
    source.write_text(OTHER_VERSION)
    module = tmp_path / "libggml-vulkan.so"
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", module], check=True)
    for name in ("libggml-cuda.so", "libggml-base.so", "libggml-cpu-sse42.so", "libggml.so"):
        (tmp_path / name).write_text("")
    code = (
        "import sys\n"
        "from scope_cpp.native import backends\n"
        "from scope_cpp.native.library import llama_cpp\n"
        "lib = llama_cpp.llama_cpp._lib\n"
        "backends.load(lib, sys.argv[1])\n"
        "assert backends.left_out(lib, sys.argv[1]) == ['libggml-cuda.so', 'libggml-vulkan.so']\n"
    )
    assert taken(code, tmp_path, tmp_path / "log", tmp_path) == []


def test_no_module_of_the_current_folder_is_taken(modules, tmp_path):
    code = "from scope_cpp.native.library import llama_cpp\nllama_cpp.llama_backend_init()\n"
    assert taken(code, modules, tmp_path / "log") == []


def test_modules_are_loaded_where_libllama_is_linked_with_none():
    variants = list(library_path().glob("*ggml-cpu-*"))
    assert backends.are_modules(llama_cpp.llama_cpp._lib) == bool(variants)
    assert backends.are_modules(SimpleNamespace())
    assert not backends.are_modules(SimpleNamespace(ggml_backend_cpu_reg=None))


def test_a_cpu_for_which_there_is_no_module_is_told_in_one_line(tmp_path):
    loaded = []

    def load_all(folder: bytes) -> None:
        loaded.append(folder)

    lib = SimpleNamespace(
        ggml_log_set=lambda callback, data: None,
        ggml_backend_load_all_from_path=load_all,
        ggml_backend_dev_by_type=lambda kind: None,
    )
    with pytest.raises(ScopeError, match="no library libggml-cpu-.* runs on this CPU"):
        backends.load(lib, tmp_path)
    assert loaded == [os.fsencode(tmp_path)]
