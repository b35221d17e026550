"""Apply patches to an unpacked source tree, once.

A patch that is already in the tree is skipped. A copy of each applied patch is kept beside
the source, so that an edited or removed patch is taken out again before the new one goes in.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

APPLIED = ".scope-patches"


class PatchError(Exception):
    """A patch can't be applied; the message is one line for the user."""


def log(message: str) -> None:
    """Write one line of the build log."""
    print(f"scope-cpp: {message}", flush=True)


def git_environment(tree: Path) -> dict[str, str]:
    """Return an environment in which git sees no repository from inside `tree`.

    Inside a repository git silently skips every file a patch names outside the current
    folder's part of it, and the build folder usually lies inside our own checkout.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env["GIT_CEILING_DIRECTORIES"] = str(tree.parent)
    return env


def git_apply(tree: Path, patch: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run ``git apply`` on one patch, relative to `tree` (absolute, symlinks resolved)."""
    command = ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", *options]
    try:
        return subprocess.run(
            [*command, str(patch)],
            cwd=tree,
            env=git_environment(tree),
            text=True,
            capture_output=True,
        )
    except FileNotFoundError:
        raise PatchError(
            f"git was not found, and {patch.name} is applied with it: install git"
        ) from None


def fits(tree: Path, patch: Path, *options: str) -> bool:
    """Tell whether ``git apply`` with these options would succeed."""
    return git_apply(tree, patch, "--check", *options).returncode == 0


def conflict(tree: Path, patch: Path, reason: str) -> PatchError:
    """Build the error for a patch that neither applies nor is applied."""
    return PatchError(
        f"{patch.name} does not apply to {tree} ({reason}): if files there were edited, remove that"
        " folder and build again; if llama.cpp was updated, rebase the patch (patches/README.md)"
    )


def apply(tree: Path, patch: Path) -> None:
    """Apply one patch, or skip it if it is in the tree already."""
    if fits(tree, patch, "--reverse"):
        log(f"{patch.name}: applied already")
        return
    result = git_apply(tree, patch)
    if result.returncode != 0:
        raise conflict(tree, patch, " ".join(result.stderr.split()))
    log(f"applied {patch.name}")


def take_out(tree: Path, patch: Path) -> None:
    """Reverse a patch that was applied in an earlier form."""
    if fits(tree, patch, "--reverse"):
        git_apply(tree, patch, "--reverse")
        log(f"took out the earlier {patch.name}")
    elif not fits(tree, patch):  # neither in the tree nor absent from it
        raise conflict(tree, patch, "its earlier form can't be taken out")
    patch.unlink()


def read_all(patches: Sequence[Path]) -> list[tuple[str, bytes]]:
    """Return the names and contents of patches."""
    return [(patch.name, patch.read_bytes()) for patch in patches]


def apply_all(tree: Path, patches: Sequence[Path]) -> None:
    """Bring `tree` to the state "exactly these patches are applied".

    Parameters
    ----------
    tree : Path
        Root of the source that the patches' paths are relative to.
    patches : sequence of Path
        Patches for ``git apply``; applied in the order of their names.

    Raises
    ------
    PatchError
        If a patch neither applies nor is applied, or git is missing.
    """
    tree = tree.resolve()
    if not tree.is_dir():
        raise PatchError(f"there is no source folder {tree}: fetch llama.cpp first")
    patches = sorted((patch.resolve() for patch in patches), key=lambda patch: patch.name)
    record = tree / APPLIED
    record.mkdir(exist_ok=True)
    earlier = sorted(record.glob("*.patch"))
    if read_all(earlier) != read_all(patches):
        for patch in reversed(earlier):
            take_out(tree, patch)
    elif earlier and fits(tree, earlier[-1], "--reverse"):  # then those below it are in, too
        log(f"{', '.join(patch.name for patch in patches)}: applied already")
        return
    for patch in patches:
        apply(tree, patch)
        (record / patch.name).write_bytes(patch.read_bytes())


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tree", type=Path, help="root of the source tree")
    parser.add_argument("patches", type=Path, nargs="*", help="patches, applied by name")
    args = parser.parse_args()
    try:
        apply_all(args.tree, args.patches)
    except (PatchError, OSError) as error:
        print(f"scope-cpp: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
