"""Numbers in prose are read exactly, whatever they are dressed in."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.eval.scorers.numbers import first_number, last_number, numbers

DECIMALS = st.decimals(min_value=-(10**12), max_value=10**12, allow_nan=False, places=3)
FRAMES = st.sampled_from(
    [
        "{}",
        "${}",
        r"\${}",
        "**{}**",
        "{} dollars",
        "{}%",
        r"{}\%",
        "It is {}.",
        "\n{} eggs,",
        "€ {}",
    ]
)


@given(DECIMALS, FRAMES, st.booleans(), st.sampled_from("-\N{MINUS SIGN}"))
def test_a_number_is_the_same_in_any_frame(
    value: Decimal, frame: str, commas: bool, minus: str
) -> None:
    text = frame.format(f"{value:,f}" if commas else f"{value:f}").replace("-", minus)

    assert first_number(text) == last_number(text) == Fraction(value)


@given(st.lists(st.integers(0, 10**9), max_size=6))
def test_all_numbers_are_found_in_order(values: list[int]) -> None:
    text = " and ".join(f"{value:,}" for value in values)

    assert list(numbers(text)) == values


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for value in numbers(text):
        assert isinstance(value, Fraction)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10-3", [10, 3]),
        ("10 - 3 = 7", [10, 3, 7]),
        ("from -5 to +5", [-5, 5]),
        ("$-4.50", [Fraction(-9, 2)]),
        ("-$4.50", [Fraction(-9, 2)]),
        (".5", [Fraction(1, 2)]),
        ("2/3 of it", [Fraction(2, 3)]),
        (r"\frac{2}{3} and \dfrac{10}{5}", [Fraction(2, 3), 2]),
        ("1{,}000", [1000]),
        ("1,2,3", [1, 2, 3]),
        ("12,345,678", [12345678]),
        ("12,34", [12, 34]),
        ("18.", [18]),
        ("Q12 x3 H2O", []),
        ("7/0", []),
        ("9" * 400, []),
        ("٣", []),
        ("", []),
    ],
)
def test_what_is_a_number(text: str, found: list[Fraction]) -> None:
    assert list(numbers(text)) == found
