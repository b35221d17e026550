"""What the build says before it compiles the Vulkan backend, without Vulkan."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# what a Vulkan SDK has of what is needed
PARTS = {
    "headers": "include/vulkan/vulkan_core.h",
    "loader": "lib/libvulkan.so",
    "glslc": "bin/glslc",
    "spirv": "share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake",
}
OLD = "#define VK_HEADER_VERSION 239\n"
NEW = "#define VK_HEADER_VERSION 275\n#define VK_EXT_layer_settings 1\n"


@pytest.fixture(scope="module")
def cmake() -> str:
    found = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    if found is None:
        pytest.skip("no cmake")
    return found


def make_sdk(folder: Path, *parts: str, header: str = NEW) -> Path:
    for part in parts:
        path = folder / PARTS[part]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(header if part == "headers" else "")
        path.chmod(0o755)
    return folder


def lacks(cmake: str, sdk: Path) -> str:
    """What is said of this SDK, with nothing of the system's to be found."""
    script = sdk / "check.cmake"
    script.write_text(
        f'include("{ROOT}/cmake/check_vulkan.cmake")\nmessage("<${{SCOPE_VULKAN_LACKS}}>")\n'
    )
    hidden = [
        f"-DCMAKE_FIND_USE_{kind}=FALSE"
        for kind in ("CMAKE_SYSTEM_PATH", "SYSTEM_ENVIRONMENT_PATH", "CMAKE_ENVIRONMENT_PATH")
    ]
    result = subprocess.run(
        [cmake, *hidden, "-P", script],
        env={**os.environ, "VULKAN_SDK": str(sdk)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr.strip().removeprefix("<").removesuffix(">")


def test_nothing_is_missing(cmake: str, tmp_path: Path) -> None:
    assert lacks(cmake, make_sdk(tmp_path, *PARTS)) == ""


@pytest.mark.parametrize(
    ("missing", "debian", "fedora"),
    [
        (["glslc"], "glslc", "glslc"),
        (["spirv"], "spirv-headers", "spirv-headers-devel"),
        (["loader"], "libvulkan-dev", "vulkan-loader-devel"),
        (["headers", "loader"], "libvulkan-dev", "vulkan-headers vulkan-loader-devel"),
        (["glslc", "spirv"], "glslc spirv-headers", "glslc spirv-headers-devel"),
        (
            list(PARTS),
            "libvulkan-dev glslc spirv-headers",
            "vulkan-headers vulkan-loader-devel glslc spirv-headers-devel",
        ),
    ],
    ids=str,
)
def test_packages_are_named_in_one_line(
    cmake: str, tmp_path: Path, missing: list[str], debian: str, fedora: str
) -> None:
    said = lacks(cmake, make_sdk(tmp_path, *(set(PARTS) - set(missing))))
    assert said.startswith("the Vulkan backend needs what was not found: ")
    assert f"apt install {debian};" in said
    assert f"dnf install {fedora};" in said
    assert "\n" not in said


def test_headers_that_are_too_old(cmake: str, tmp_path: Path) -> None:
    said = lacks(cmake, make_sdk(tmp_path, *PARTS, header=OLD))
    assert "too old (version 239, as Debian 12 has them)" in said
    assert "Vulkan_INCLUDE_DIR" in said and "\n" not in said


@pytest.mark.parametrize("is_there", [True, False])
def test_a_build_folder_whose_programs_are_gone(cmake: str, tmp_path: Path, is_there: bool) -> None:
    """Is made anew, as pip's programs are gone when it builds again; others are kept."""
    ninja = tmp_path / "ninja"
    if is_there:
        ninja.write_text("")
    cache = tmp_path / "shaders" / "src" / "build" / "CMakeCache.txt"
    cache.parent.mkdir(parents=True)
    cache.write_text(f"# made by CMake\nCMAKE_MAKE_PROGRAM:FILEPATH={ninja}\n")
    script = tmp_path / "forget.cmake"
    script.write_text(
        f'include("{ROOT}/cmake/forget_dead_build.cmake")\n'
        f'scope_forget_dead_build("{tmp_path}/shaders")\n'
        f'scope_forget_dead_build("{tmp_path}/none")\n'
    )
    subprocess.run([cmake, "-P", script], check=True)
    assert cache.exists() == is_there
