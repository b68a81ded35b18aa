"""How large test parts are by training parts: what the correction of intervals is told, whatever the scheme."""

import math

import numpy as np
import pytest
from test_results_table import CONTROL, record

from peftbench.analysis.intervals import corrected_interval
from peftbench.analysis.results import gain, ratio_of_parts
from peftbench.protocol.records import Record

MCC = [0.5, 0.7, 0.3]


def with_units(made: Record, **units: list[int]) -> Record:
    return made.model_copy(update={"provenance": {**made.provenance, "split": {"units": units}}})


def test_of_k_fold_it_follows_from_the_folds_as_it_always_did() -> None:
    made = record("net", [*MCC, 0.1, 0.2])
    assert ratio_of_parts(made) == pytest.approx(0.2 / 0.6)
    assert ratio_of_parts(with_units(made, train=[1], test=[9])) == pytest.approx(0.2 / 0.6)


@pytest.mark.parametrize("scheme", ["LOCO", "hold-out", "mine"])
def test_of_other_schemes_it_is_the_mean_test_part_by_the_mean_training_part(scheme: str) -> None:
    made = with_units(record("net", MCC, scheme=scheme), train=[60, 50, 40], test=[30, 10, 20])
    assert ratio_of_parts(made) == pytest.approx(20 / 50)
    control = record(CONTROL, [0.1, 0.1, 0.2], scheme=scheme)
    expected = corrected_interval(np.subtract(MCC, [0.1, 0.1, 0.2]), 20 / 50)
    assert gain(made, control) == pytest.approx(expected)


def test_without_the_sizes_there_is_no_interval() -> None:
    made = record("net", MCC, scheme="LOCO")
    assert math.isnan(ratio_of_parts(made))
    found = gain(made, record(CONTROL, [0.1, 0.1, 0.2], scheme="LOCO"))
    assert found.mean == pytest.approx(np.mean(np.subtract(MCC, [0.1, 0.1, 0.2])))
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_with_one_fold_there_is_no_interval() -> None:
    made = with_units(record("net", [0.5], scheme="hold-out"), train=[60], test=[20])
    found = gain(made, record(CONTROL, [0.1], scheme="hold-out"))
    assert found.mean == pytest.approx(0.4)
    assert math.isnan(found.low)
