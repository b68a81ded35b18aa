"""A raw column is understood whole, or the value that is not is named with its place and what was expected."""

import numpy as np
import pandas as pd
import pytest

from peftbench.cohorts.columns import ColumnError, mapped, numbers

VIEWS = {"ap": "AP", "pa": "PA", "": None}


def table(*values: str) -> pd.DataFrame:
    return pd.DataFrame({"x": list(values)})


def test_numbers_are_read_and_empty_cells_are_missing() -> None:
    np.testing.assert_array_equal(numbers(table("3", "", " -2.5 ", "1e3"), "x"), [3.0, np.nan, -2.5, 1000.0])


def test_what_is_no_number_is_named_with_its_line_and_count() -> None:
    with pytest.raises(ColumnError, match=r"'x' holds 'abc' \(2 rows\), first in line 3; expected a number or nothing"):
        numbers(table("1", "abc", "", "abc"), "x")


def test_values_are_mapped_whatever_their_case() -> None:
    assert mapped(table("ap", "PA", ""), "x", VIEWS).tolist()[:2] == ["AP", "PA"]
    assert mapped(table("ap", "PA", ""), "x", VIEWS).isna().tolist() == [False, False, True]


def test_a_value_without_a_meaning_is_named_with_what_was_expected() -> None:
    with pytest.raises(
        ColumnError, match=r"'x' holds 'lateral' \(1 rows\), first in line 3; expected one of ap, pa, noth"
    ):
        mapped(table("ap", "lateral"), "x", VIEWS)
