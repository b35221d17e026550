"""Scorers of MATH-500 and LongProc."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.eval.scorers.countdown import demonstration, share_of_search, solves
from scope_cpp.eval.scorers.latex import boxed, same
from scope_cpp.eval.scorers.tsv import row_f1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"\frac{1}{2}", r"\dfrac12"),
        ("1/2", r"\frac 12"),
        ("0.5", r"\tfrac{1}{2}"),
        ("-1/2", r"-\frac{1}{2}"),
        (".5", "0.50"),
        ("1,000", "1000"),
        (r"10{,}000", "10000"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", r"90\text{ degrees}"),
        (r"15\mbox{ cm}^2", "15 cm^2"),
        (r"\$36", "36"),
        (r"50\%", "50"),
        ("12 square feet", "12"),
        (r"\text{east}", "east"),
        (r"\text{(C)}", "C"),
        (r"2\sqrt 5", r"2 \sqrt{5}"),
        (r"x = 5", "5"),
        (r"x \in [0,1]", "[0, 1]"),
        (r"x^{2}", "x^2"),
        (r"a \leq b", r"a \le b"),
        (r"\begin{pmatrix} -2 \\ -14 \end{pmatrix}", r"\begin{pmatrix}-2\\-14\end{pmatrix}"),
    ],
)
def test_layout_makes_no_difference(a: str, b: str) -> None:
    assert same(a, b)
    assert same(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1/2", "2"), ("12", "21"), ("x+1", "1+x"), ("(1,2)", "(2,1)"), ("1,000", "1,00"),
        ("-5", "5"), (r"\sqrt{5}", "5"), ("2x", "2"), (r"3\pi", "3"), ("", ""), ("1/0", "2/0"),
        (r"x^{12}", "x^2"), (r"\{1\}", "1"),
    ],
)  # fmt: skip
def test_values_do(a: str, b: str) -> None:
    assert not same(a, b)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{1} or rather \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed 7.", "7"),
        (r"\boxed{3} and then \boxed{4", "3"),
        (r"\boxed{" + "9" * 2000 + "}", None),
        ("no box", None),
        ("", None),
    ],
)
def test_the_last_closed_box_counts(text: str, inside: str | None) -> None:
    assert boxed(text) == inside


@given(st.text(st.sampled_from("\\boxed{}1/frac^_$ .,text"), max_size=80))
def test_any_answer_is_read(text: str) -> None:
    inside = boxed(text)
    assert same(text, text) or not same(text, "1")
    assert inside is None or inside in text


TABLE = "name\tprice\nThe Rose\t€ 4.50\nThyme\t€ 2,00\nMint\tN/A"


@pytest.mark.parametrize(
    ("output", "f1"),
    [
        (f"```tsv\n{TABLE}\n```", 1.0),
        (f"Here:\n```tsv\n{TABLE}\n", 1.0),
        (TABLE, 1.0),
        (TABLE.replace("The Rose", "rose").replace("\n", "\r\n"), 1.0),
        ("title\tcost\nMint\tN/A\nThyme\t€200\nRose\t€ 4.50", 1.0),
        (f"{TABLE}\nBasil\t1", 2 * (3 / 4) / (3 / 4 + 1)),
        (f"{TABLE}\nBas", 1.0),
        ("name\tprice\nMint\tN/A", 2 * (1 / 3) / (1 + 1 / 3)),
        ("name\tprice\nMint\tfree\nSage\t1", 0.0),
        ("name\tprice\nMint\nRose\t€ 4.50", 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),
    ],
)
def test_f1_of_rows(output: str, f1: float) -> None:
    assert row_f1(output, TABLE) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("output", "reason"),
    [("", "no row"), ("name\tprice", "no row"), ("name\nMint", "1 columns, not 2")],
)
def test_what_is_no_table(output: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        row_f1(output, TABLE)


def test_a_search_is_written_out() -> None:
    text = demonstration([1, 2, 3, 4], 24)
    assert text is not None
    lines = text.split("\n")

    assert lines[0] == "# Search Procedure"
    assert lines[1] == (
        "Initial number set: [1, 2, 3, 4], target: 24. Options for choosing two numbers: "
        "[(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]."
    )
    assert lines[2:5] == [
        " |- Pick two numbers (1, 2) (numbers left: [3, 4]). Try possible operations.",
        "  |- Try 2 + 1 = 3. Add 3 to the number set. Current number set: [3, 3, 4], target: 24."
        " Options for choosing two numbers: [(3, 3), (3, 4), (3, 4)].",
        "   |- Pick two numbers (3, 3) (numbers left: [4]). Try possible operations.",
    ]
    assert solves(text, [1, 2, 3, 4], 24)
    assert share_of_search(text, text) < 1  # only the solution is worth 1


@given(st.lists(st.integers(1, 30), min_size=4, max_size=4), st.integers(1, 60))
def test_what_a_search_finds_is_a_solution(numbers: list[int], target: int) -> None:
    text = demonstration(numbers, target)
    if text is not None:
        assert solves(text, numbers, target)
        assert not solves(text, numbers, target + 1)


@pytest.mark.parametrize(
    ("equations", "right"),
    [
        ("4 * 3 = 12\n12 * 2 = 24\n24 * 1 = 24", True),
        ("4*3=12\n 12*2=24 \n24/1=24", True),
        ("4 * 3 = 12\n12 * 2 = 24", False),
        ("4 * 3 = 13\n13 * 2 = 26\n26 - 2 = 24", False),
        ("4 * 4 = 16\n16 + 4 = 20\n20 + 4 = 24", False),
        ("4 * 3 = 12\n12 * 2 = 24\n24 + 1 = 25", False),
        ("1 / 0 = 0\n0 + 24 = 24\n24 - 0 = 24", False),
        ("__import__('os')\n1\n2", False),
    ],
)
def test_solutions_are_checked(equations: str, right: bool) -> None:
    assert solves(f"<Solution>\n{equations}\n</Solution>", [1, 2, 3, 4], 24) is right


def test_without_tags_there_is_no_solution() -> None:
    assert solves("4 * 3 = 12", [1, 2, 3, 4], 24) is None


def test_a_search_counts_up_to_its_first_wrong_step() -> None:
    gold = demonstration([1, 2, 3, 4], 24)
    assert gold is not None
    steps = gold.split("\n")[2 : gold.split("\n").index("")]
    half = len(steps) // 2
    cut = "\n".join(gold.split("\n")[: 2 + half])
    wrong = gold.replace(steps[half], steps[half].replace("|- ", "|- Not "), 1)

    assert share_of_search(wrong, gold) == half / len(steps)
    assert share_of_search(cut, gold) == (half - 1) / len(steps)
    assert share_of_search("# Search Procedure\nSomething else", gold) == 0
    assert share_of_search("", gold) == 0


def test_searches_are_those_of_the_data(shared_dir: Path) -> None:
    path = shared_dir / "data/longproc/countdown_0.5k.json"
    if not path.is_file():
        pytest.skip("no data/longproc/countdown_0.5k.json")
    for row in json.loads(path.read_text()):
        # the file has an older frame around the same search
        framed = row["demonstration"].replace("<Search Procedure>", "# Search Procedure")
        expected = framed.replace("\n</Search Procedure>", "")
        assert demonstration(row["nums"], row["target"]) == expected
