"""``scripts/apply_patches.py`` on small made-up source trees."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType

import pytest

BEFORE = "one\ntwo\nthree\n"
PATCH = """\
--- a/src/file.cpp
+++ b/src/file.cpp
@@ -1,3 +1,3 @@
 one
-two
+{}
 three
"""


@pytest.fixture(scope="module")
def patcher(script) -> ModuleType:
    return script("apply_patches")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree with one file, in a folder of its own."""
    file = tmp_path / "work" / "tree" / "src" / "file.cpp"
    file.parent.mkdir(parents=True)
    file.write_text(BEFORE)
    return file.parents[1]


def write_patch(tmp_path: Path, new_line: str, name: str = "0001-change.patch") -> Path:
    patch = tmp_path / name
    patch.write_text(PATCH.format(new_line))
    return patch


def content(tree: Path) -> str:
    return (tree / "src" / "file.cpp").read_text()


def test_applies_once_and_says_so(patcher, tree, tmp_path, capsys):
    patch = write_patch(tmp_path, "TWO")
    patcher.apply_all(tree, [patch])
    assert content(tree) == "one\nTWO\nthree\n"
    assert "applied 0001-change.patch" in capsys.readouterr().out
    patcher.apply_all(tree, [patch])
    assert content(tree) == "one\nTWO\nthree\n"
    assert "0001-change.patch: applied already" in capsys.readouterr().out


def test_a_second_run_touches_no_source(patcher, tree, tmp_path):
    patch = write_patch(tmp_path, "TWO")
    patcher.apply_all(tree, [patch])
    before = (tree / "src" / "file.cpp").stat().st_mtime_ns
    patcher.apply_all(tree, [patch])
    assert (tree / "src" / "file.cpp").stat().st_mtime_ns == before


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("hook", [False, True])
def test_inside_another_repository(patcher, tree, tmp_path, monkeypatch, tracked, hook):
    """There git would skip the files silently, in a git hook as well (GIT_DIR is set)."""
    repository = tmp_path / "work"
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    if tracked:
        subprocess.run(["git", "-C", str(repository), "add", "."], check=True)
    if hook:
        monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
        monkeypatch.setenv("GIT_WORK_TREE", str(repository))
    patcher.apply_all(tree, [write_patch(tmp_path, "TWO")])
    assert content(tree) == "one\nTWO\nthree\n"


def test_through_a_symbolic_link_into_a_repository(patcher, tree, tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "work")], check=True)
    link = tmp_path / "link"
    link.symlink_to(tree.parent)
    patcher.apply_all(link / "tree", [write_patch(tmp_path, "TWO")])
    assert content(tree) == "one\nTWO\nthree\n"


def test_a_patch_applied_by_hand_is_skipped(patcher, tree, tmp_path, capsys):
    (tree / "src" / "file.cpp").write_text("one\nTWO\nthree\n")
    patcher.apply_all(tree, [write_patch(tmp_path, "TWO")])
    assert content(tree) == "one\nTWO\nthree\n"
    assert "0001-change.patch: applied already" in capsys.readouterr().out


def test_an_edited_patch_replaces_its_earlier_form(patcher, tree, tmp_path):
    patcher.apply_all(tree, [write_patch(tmp_path, "TWO")])
    patcher.apply_all(tree, [write_patch(tmp_path, "zwei")])
    assert content(tree) == "one\nzwei\nthree\n"


def test_a_removed_patch_is_taken_out(patcher, tree, tmp_path):
    patcher.apply_all(tree, [write_patch(tmp_path, "TWO")])
    patcher.apply_all(tree, [])
    assert content(tree) == BEFORE


def test_patches_apply_in_the_order_of_their_names(patcher, tree, tmp_path):
    first = write_patch(tmp_path, "TWO")
    second = tmp_path / "0002-more.patch"
    second.write_text(PATCH.format("zwei").replace("-two", "-TWO"))
    patcher.apply_all(tree, [second, first])
    assert content(tree) == "one\nzwei\nthree\n"
    patcher.apply_all(tree, [])
    assert content(tree) == BEFORE


def test_patches_of_the_same_line_are_skipped_the_second_time(patcher, tree, tmp_path):
    first = write_patch(tmp_path, "TWO")
    second = tmp_path / "0002-more.patch"
    second.write_text(PATCH.format("zwei").replace("-two", "-TWO"))
    patcher.apply_all(tree, [first, second])
    patcher.apply_all(tree, [first, second])
    assert content(tree) == "one\nzwei\nthree\n"


def test_conflict_names_the_patch_and_the_remedy(patcher, tree, tmp_path):
    (tree / "src" / "file.cpp").write_text("something else\n")
    with pytest.raises(patcher.PatchError) as error:
        patcher.apply_all(tree, [write_patch(tmp_path, "TWO")])
    message = str(error.value)
    assert "0001-change.patch" in message and str(tree) in message
    assert "remove that folder" in message and "rebase the patch" in message
    assert "\n" not in message
    assert content(tree) == "something else\n"


def test_an_edit_of_a_patched_file_stops_the_exchange_of_the_patch(patcher, tree, tmp_path):
    patcher.apply_all(tree, [write_patch(tmp_path, "TWO")])
    (tree / "src" / "file.cpp").write_text("one\nmine\nthree\n")
    with pytest.raises(patcher.PatchError, match=r"0001-change\.patch does not apply"):
        patcher.apply_all(tree, [write_patch(tmp_path, "zwei")])
    assert content(tree) == "one\nmine\nthree\n"


def test_missing_git_is_one_line(patcher, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(patcher.PatchError, match="git was not found.*install git"):
        patcher.apply_all(tree, [write_patch(tmp_path, "TWO")])


def test_missing_tree_is_one_line(patcher, tmp_path):
    with pytest.raises(patcher.PatchError, match="there is no source folder"):
        patcher.apply_all(tmp_path / "nowhere", [])
