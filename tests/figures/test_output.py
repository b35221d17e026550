"""Where figures go, and that pictures are pictures: readable by matplotlib, equal in every run."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scope_cpp.errors import ScopeError, UsageError
from scope_cpp.figures import output, style
from scope_cpp.figures.cost import Cost, Method
from scope_cpp.figures.marks import ASCII, UNICODE, marks_for
from scope_cpp.figures.table import Table

FIGURE = Cost(
    "a.gguf, 3 samples",
    (Method("full", 0, 300, 4.0, 50.0), Method("h2o", 1, 100, 1.0, 100.0, 90.0, 110.0)),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path: Path) -> np.ndarray[Any, Any]:
    image = pytest.importorskip("matplotlib.image")
    return np.asarray(image.imread(path))


def test_a_picture_with_its_numbers_beside_it_by_default(here: Path) -> None:
    pytest.importorskip("matplotlib")
    written = output.write(FIGURE, output.target("cost", None, None, False))
    assert written == [Path("scope-cost.png"), Path("scope-cost.csv")]
    drawn = pixels(here / "scope-cost.png")
    size = [style.DPI * side for side in FIGURE.size[::-1]]
    assert np.abs(np.subtract(drawn.shape[:2], size)).max() < 1  # matplotlib rounds, or cuts off
    black, blue = (style.COLOURS[i].lstrip("#") for i in (0, 1))
    for colour in (black, blue):  # the bars are there, in their methods' colours
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        assert np.isclose(drawn[:, :, :3], rgb, atol=0.01).all(axis=2).sum() > 1000


@pytest.mark.parametrize("form", style.FORMATS)
def test_equal_numbers_make_equal_files(here: Path, form: str) -> None:
    pytest.importorskip("matplotlib")
    files = []
    for name in ("a", "b"):
        output.write(FIGURE, output.target("cost", f"{name}.{form}", None, False))
        files.append((here / f"{name}.{form}").read_bytes())
    assert files[0] == files[1]
    assert len(files[0]) > 5000


def test_svg_has_its_letters_as_text(here: Path) -> None:
    pytest.importorskip("matplotlib")
    output.write(FIGURE, output.target("cost", "a.svg", None, False))
    drawn = (here / "a.svg").read_text()
    for words in ("Memory and speed", "a.gguf, 3 samples", "(MiB)", "tokens/s", "h2o"):
        assert words in drawn


def test_numbers_where_the_user_wants_them(here: Path) -> None:
    to = output.target("cost", "-", "numbers.csv", False)
    assert output.write(FIGURE, to) == [Path("numbers.csv")]
    assert not list(here.glob("*.png"))
    rows = list(csv.DictReader(io.StringIO((here / "numbers.csv").read_text())))
    assert rows[1]["row"] == "h2o"
    assert [float(rows[1][k]) for k in ("cells", "kv_mib", "tokens_per_second")] == [100, 1, 100]
    assert rows[0]["tokens_per_second_min"] == ""


def test_json_has_the_numbers_of_the_table() -> None:
    content = json.loads(output.as_json(FIGURE))
    assert content["figure"] == "cost"
    assert content["rows"] == FIGURE.table().records()


def test_without_matplotlib_the_terminal_by_default(here: Path, no_matplotlib: None) -> None:
    assert output.target("cost", None, None, False) == output.Target(None, None)
    with pytest.raises(
        ScopeError, match=r"-o a.png needs matplotlib: pip install .*or give --text"
    ):
        output.target("cost", "a.png", None, False)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "format": (lambda d: ("a.bmp", None, False), r"a.bmp: name it \*.png, \*.svg, \*.pdf, or -"),
    "no format": (lambda d: ("a", None, False), r"-o a: name it \*.png"),
    "no folder": (
        lambda d: ("no/a.png", None, False),
        r"-o no/a.png: the folder no does not exist; make it first",
    ),
    "a folder": (lambda d: (str(d), None, False), r"is a folder: name a file in it"),
    "numbers": (
        lambda d: ("-", "no/a.csv", False),
        r"--csv no/a.csv: the folder no does not exist; make it first",
    ),
    "both": (lambda d: ("a.png", None, True), r"--text and -o a.png: leave one out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_written_is_refused_before_the_work(here: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    arguments, message = REFUSED[name]
    with pytest.raises(UsageError, match=message):
        output.target("cost", *arguments(here))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written_to(here: Path) -> None:
    (here / "locked").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="can't be written there"):
        output.target("cost", "-", "locked/a.csv", False)


def test_files_are_replaced_whole_and_links_that_the_user_names_are_followed(here: Path) -> None:
    pytest.importorskip("matplotlib")
    (here / "real.png").write_bytes(b"old")
    (here / "real.png").chmod(0o640)
    (here / "a.png").symlink_to("real.png")
    output.write(FIGURE, output.target("cost", "a.png", None, False))
    assert (here / "a.png").is_symlink()
    assert (here / "real.png").read_bytes().startswith(b"\x89PNG")
    assert (here / "real.png").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in here.iterdir()) == ["a.csv", "a.png", "real.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(here: Path) -> None:
    with pytest.raises(ScopeError, match="/dev/full cannot be written: No space left on device"):
        output.write(FIGURE, output.target("cost", "-", "/dev/full", False))


def test_headings_are_wrapped() -> None:
    long = Cost(", ".join(["a-long-name.gguf"] * 12), FIGURE.methods)
    assert max(map(len, output.as_text(long, UNICODE).splitlines())) <= output.WIDTH


def test_terminals_without_unicode() -> None:
    assert marks_for("utf-8") == marks_for("UTF-8") == UNICODE
    assert marks_for("ascii") == marks_for(None) == ASCII
    assert output.as_text(FIGURE, ASCII).isascii()


def test_bars_tell_the_larger_from_the_smaller() -> None:
    lines = output.as_text(FIGURE, UNICODE).splitlines()
    full, h2o = (next(line for line in lines if line.startswith(name)) for name in ("full", "h2o"))
    memory = [line.split()[1].count("█") for line in (full, h2o)]
    speed = [line.split()[3].count("█") for line in (full, h2o)]
    assert memory[0] == pytest.approx(4 * memory[1], abs=2)
    assert speed[1] == pytest.approx(2 * speed[0], abs=1)
    assert speed[0] > 0 < memory[1]


def test_marks_of_shares() -> None:
    assert UNICODE.spark([0, 1e-9, 0.5, 0.99, 1, None]) == "·▁▄██ "
    assert UNICODE.measure(0.5, 8) == "████····"
    assert UNICODE.measure(0.5, 8, (0.25, 0.75)) == "██▒▒▒▒··"
    assert [UNICODE.part(share) for share in (0, 0.1, 0.5, 0.9, 1)] == list("·░▒▓█")


def test_a_table_is_rectangular() -> None:
    with pytest.raises(ValueError, match="2 values"):
        Table(("a", "b"), ((1,),))


def test_looks_differ_by_more_than_colour() -> None:
    looks = [style.look(i) for i in range(14)]
    assert len(set(looks)) == len(looks)
    assert len({look.colour for look in looks[:7]}) == 7
    assert len({look.marker for look in looks[:7]}) == 7
