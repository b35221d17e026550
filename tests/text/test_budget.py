from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scope_cpp.engine.budget import Budget, cells, format_bytes, parse_budget, parse_size
from scope_cpp.errors import UsageError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("2048", "cells", 2048),
        (" 7 ", "cells", 7),
        ("2k", "cells", 2048),
        ("1.5K", "cells", 1536),
        ("50%", "percent", 50),
        ("12.5 %", "percent", 12.5),
        ("512MiB", "bytes", 512 << 20),
        ("1.5gib", "bytes", 3 << 29),
        ("2 TiB", "bytes", 2 << 40),
        ("64KB", "bytes", 64_000),
        ("1GB", "bytes", 10**9),
        ("auto", "auto", 0),
        ("AUTO", "auto", 0),
        (300, "cells", 300),
        (None, "default", 0),
    ],
)
def test_accepted_forms(text: str | int | None, kind: str, value: float) -> None:
    parsed = parse_budget(text)
    assert (parsed.kind, parsed.value) == (kind, value)


@pytest.mark.parametrize(
    "text",
    ["", "0", "-5", -1, "0%", "-10%", "101%", "0MiB", "abc", "12x", "1e3", "nan", "inf", "2.5", "k"]
    + ["%", "1..5k", "512M", "٣", "1_000", "0.0001k", "5 0"],
)
def test_nonsense_is_refused_in_one_line(text: str | int) -> None:
    with pytest.raises(UsageError) as err:
        parse_budget(text)
    assert str(text) in str(err.value)
    assert "\n" not in str(err.value)


def test_a_number_beyond_all_numbers_is_a_budget() -> None:
    for text in ("9" * 400, "9" * 400 + "k", "9" * 400 + "TiB"):
        assert parse_budget(text).value >= 2**64


@pytest.mark.parametrize(
    ("text", "kinds", "line"),
    [
        ("50%", ("cells", "bytes"), r"--room '50%' can't be given: give cells .* or memory \(.*\)"),
        ("auto", ("cells", "bytes"), "--room 'auto' is not understood: give cells .* or memory"),
        ("512MiB", ("cells",), "--room '512MiB' can't be given"),
    ],
)
def test_a_kind_that_is_not_taken(text: str, kinds: tuple[str, ...], line: str) -> None:
    with pytest.raises(UsageError, match=f"^{line}"):
        parse_budget(text, "--room", kinds)


def test_none_at_all_where_it_is_taken() -> None:
    assert parse_budget("0", "--room", ("cells", "bytes"), or_none=True).value == 0
    with pytest.raises(UsageError, match=r"'x' .*: give cells \(.*\), memory \(.*\) or 0$"):
        parse_budget("x", "--room", ("cells", "bytes"), or_none=True)


def test_sizes_in_bytes() -> None:
    sizes = {"1": 1, "4k": 4096, "1.5MiB": 3 << 19, "4 MB": 4_000_000, " 7 ": 7}
    assert {text: parse_size(text, "--size") for text in sizes} == sizes
    for text in ("", "0", "0.5", "1.5", "-1", "50%", "auto", "4M", "x"):
        with pytest.raises(UsageError, match=f"^--size '{text}' is no size: give bytes"):
            parse_size(text, "--size")


@pytest.mark.parametrize("text", ["-5", "abc", "0", "2.5"])
def test_the_accepted_forms_are_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"2048.*50%.*512MiB.*auto"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "n_prompt", "n_predict", "expected"),
    [
        (None, 100, 8192, 1124),
        (None, 100, 50, 150),
        (None, 100, None, 1124),
        ("300", 100, 8192, 300),
        ("300", 100, 50, 150),
        ("300", 100, None, 300),
        ("2k", 100, 8192, 2048),
        ("50%", 100, 900, 500),
        ("100%", 100, 900, 1000),
        ("0.01%", 100, 900, 1),
        ("10KiB", 100, 900, 10),
        ("10KB", 100, 900, 9),
        ("auto", 100, 900, 1000),
        ("auto", 100, 10**9, 524288),
        ("auto", 100, None, 524288),
    ],
)
def test_cells(text: str | None, n_prompt: int, n_predict: int | None, expected: int) -> None:
    budget = parse_budget(text)
    found = cells(
        budget, n_prompt=n_prompt, n_predict=n_predict, taken=lambda n: 1024 * n, free_memory=GIB
    )
    assert found == expected


def of(text: str, *, n_predict: int | None = 900, per_cell: int = 1024, free: int = GIB) -> int:
    return cells(
        parse_budget(text),
        n_prompt=100,
        n_predict=n_predict,
        taken=lambda n: n * per_cell,
        free_memory=free,
    )


def test_bytes_that_hold_no_cell() -> None:
    with pytest.raises(
        UsageError, match=r"10KiB is too small: a single cell takes 32 KiB .*; give more"
    ):
        of("10KiB", per_cell=32 << 10)


def test_bytes_that_hold_no_cell_where_all_of_them_take_less() -> None:
    """Where all fit nothing is chosen, and no buffers are needed for it."""

    def taken(n: int) -> int:
        return 50 << 20 if n < 200 else 20 << 20

    def ask(text: str) -> int:
        budget = parse_budget(text)
        return cells(budget, n_prompt=100, n_predict=100, taken=taken, free_memory=GIB)

    with pytest.raises(UsageError, match="19MiB is too small: all 200 cells take 20 MiB .*; give"):
        ask("19MiB")
    assert ask("20MiB") == 200


def test_auto_without_room_for_a_cell() -> None:
    with pytest.raises(
        UsageError,
        match=r"auto is half of the 100 B .* a single cell takes 1 KiB .* end other programs",
    ):
        of("auto", free=100)


def test_cells_beyond_the_free_memory_name_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"500 cells take 500 KiB .* 100 KiB are free"):
        of("500", free=100 << 10)


def test_bytes_beyond_the_free_memory_are_refused() -> None:
    with pytest.raises(UsageError, match="are free"):
        of("200KiB", free=100 << 10)


def test_what_is_not_needed_need_not_fit() -> None:
    assert of("64GiB", n_predict=50) == 150


def test_a_share_needs_a_length() -> None:
    with pytest.raises(UsageError, match="-n"):
        of("50%", n_predict=None)


BUDGETS = st.one_of(
    st.just(None),
    st.just("auto"),
    st.integers(1, 10**12).map(str),
    st.integers(1, 100).map(lambda p: f"{p}%"),
    st.integers(1, 2000).map(lambda m: f"{m}MiB"),
)


@given(BUDGETS, st.integers(1, 10**5), st.integers(0, 10**6), st.integers(1, 10**6))
def test_never_beyond_the_full_length_nor_the_memory(
    text: str | None, n_prompt: int, n_predict: int, per_cell: int
) -> None:
    free = 256 << 20
    try:
        found = cells(
            parse_budget(text),
            n_prompt=n_prompt,
            n_predict=n_predict,
            taken=lambda n: n * per_cell,
            free_memory=free,
        )
    except UsageError:
        # refused only when the wish cannot be had; `auto` always can
        assert text != "auto"
        return
    assert 1 <= found <= n_prompt + n_predict
    assert found * per_cell <= free


def test_budget_is_hashable_and_equal_by_value() -> None:
    assert parse_budget("2k") == Budget("cells", 2048, "2k")
    assert len({parse_budget("2k"), parse_budget("2k")}) == 1


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1 MiB"), (5 << 40, "5 TiB")],
)
def test_format_bytes(n: int, text: str) -> None:
    assert format_bytes(n) == text
