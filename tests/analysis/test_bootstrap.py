"""The bootstrap by patient agrees with a loop over resamples, covers the truth, and keeps patients whole."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.analysis.intervals import bootstrap_interval
from peftbench.protocol import metrics

Sample = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]


def sample(seed: int, patients: int = 40, images: int = 2) -> Sample:
    """Patient, event, a score that knows something, and one that knows less."""
    random = np.random.default_rng(seed)
    event = np.repeat(random.permutation(np.arange(patients) % 2), images)
    noise = random.normal(size=(2, patients * images)) * 0.3
    scores = [np.clip(0.5 + skill * (event - 0.5) + each, 0, 1) for skill, each in zip((0.5, 0.2), noise, strict=True)]
    return np.repeat(np.arange(patients), images), event, scores[0], scores[1]


def mcc(
    patient: npt.NDArray[np.int64], event: npt.NDArray[np.int64], score: npt.NDArray[np.float64], unit: str
) -> float:
    pair = metrics.by_patient(patient, event, score) if unit == "patient" else (event, score)
    return metrics.evaluate(*pair).values["mcc"]


def looped(given: Sample, unit: str, resamples: int) -> npt.NDArray[np.float64]:
    """Differences in MCC, resample by resample, patient by patient."""
    patient, event, one, other = given
    random, names, found = np.random.default_rng(5), np.unique(patient), []
    for _ in range(resamples):
        rows = [np.flatnonzero(patient == name) for name in random.choice(names, len(names))]
        who, at = np.repeat(np.arange(len(rows)), [len(each) for each in rows]), np.concatenate(rows)
        found.append(mcc(who, event[at], one[at], unit) - mcc(who, event[at], other[at], unit))
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["image", "patient"])
def test_it_agrees_with_a_loop_over_resamples(unit: str) -> None:
    given = sample(0)
    found = bootstrap_interval(*given, unit=unit, resamples=20_000)
    low, high = np.quantile(looped(given, unit, 1500), [0.025, 0.975])
    assert found.mean == pytest.approx(mcc(*given[:3], unit) - mcc(*given[:2], given[3], unit))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.035)
    assert found.folds == 40


@pytest.mark.parametrize("unit", ["image", "patient"])
def test_of_one_score_it_is_that_of_its_mcc(unit: str) -> None:
    patient, event, score, _ = sample(1)
    found = bootstrap_interval(patient, event, score, unit=unit)
    assert found.mean == pytest.approx(mcc(patient, event, score, unit))
    assert found.low < found.mean < found.high


@given(seed=st.integers(0, 50), unit=st.sampled_from(["image", "patient"]))
@settings(deadline=None, max_examples=20)
def test_the_order_of_rows_and_the_names_of_patients_are_nothing(seed: int, unit: str) -> None:
    patient, event, one, other = sample(seed, 12)
    order = np.random.default_rng(seed).permutation(len(event))
    renamed = np.array([f"p-{99 - name}" for name in patient])[order]
    expected = bootstrap_interval(patient, event, one, other, unit=unit, resamples=200)
    assert bootstrap_interval(renamed, event[order], one[order], other[order], unit=unit, resamples=200) == (
        pytest.approx(expected, nan_ok=True)
    )


@given(seed=st.integers(0, 50))
@settings(deadline=None, max_examples=20)
def test_exchanging_the_sides_turns_the_interval_round(seed: int) -> None:
    patient, event, one, other = sample(seed, 30)
    found, turned = (bootstrap_interval(patient, event, *pair, resamples=4000) for pair in ((one, other), (other, one)))
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low), abs=0.06)


def test_a_score_against_itself_gains_nothing() -> None:
    patient, event, score, _ = sample(2)
    assert bootstrap_interval(patient, event, score, score)[:3] == (0, 0, 0)


def test_more_images_of_the_same_patients_narrow_nothing() -> None:
    patient, event, score, _ = sample(3)
    once = bootstrap_interval(patient, event, score)
    often = bootstrap_interval(*(np.tile(each, 10) for each in (patient, event, score)))
    assert often == pytest.approx(once)


def test_draws_are_averaged() -> None:
    patient, event, one, other = sample(4)
    found = bootstrap_interval(patient, event, np.stack([one, other], axis=1))
    assert found.mean == pytest.approx((mcc(patient, event, one, "image") + mcc(patient, event, other, "image")) / 2)
    assert bootstrap_interval(patient, event, np.stack([one, one], axis=1)) == pytest.approx(
        bootstrap_interval(patient, event, one)
    )


def test_one_class_has_no_mcc() -> None:
    assert all(map(math.isnan, bootstrap_interval([1, 2], [1, 1], [0.2, 0.8])[:3]))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random, held = np.random.default_rng(0), []
    hit, patients = 0.75, 80
    truth = 2 * hit - 1  # of decisions that are right with this chance in both classes
    for seed in range(200):
        event = random.permutation(np.arange(patients) % 2)
        right = random.uniform(size=patients) < hit
        found = bootstrap_interval(
            np.arange(patients), event, np.where(right, event, 1 - event), seed=seed, resamples=500
        )
        held.append(found.low <= truth <= found.high)
    assert 0.89 < np.mean(held) < 0.99
