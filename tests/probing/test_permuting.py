"""Permuted labels: dealt among the patients of a test part, fitted anew, and a p value that keeps what it promises."""

import numpy as np
import pytest
from scipy.stats import kstest

from peftbench.probing.cells import Task, solve
from peftbench.probing.families.family import Options
from peftbench.probing.given import Given
from peftbench.probing.permuting import null_scores, permuted_labels
from peftbench.protocol.metrics import Confusion, matthews
from peftbench.protocol.scoring import null_of

FOLDS = 3


def folds(count: int) -> list[np.ndarray]:
    return [np.arange(count)[np.arange(count) % FOLDS == fold] for fold in range(FOLDS)]


def parts(tests: list[np.ndarray], fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rest = np.sort(np.concatenate([each for at, each in enumerate(tests) if at != fold]))
    return rest[rest % 4 != 0], rest[rest % 4 == 0], tests[fold]


PATIENTS = np.repeat(np.arange(24), [1, 3] * 12)

EVENT = (PATIENTS % 5 == 0).astype(np.int64)

TESTS = [np.flatnonzero(fold == PATIENTS % FOLDS) for fold in range(FOLDS)]


class TestLabels:
    def labels(self, seed: int = 0, permutations: int = 20) -> np.ndarray:
        return permuted_labels(EVENT, PATIENTS, TESTS, permutations, seed)

    def test_a_patient_has_one_outcome(self) -> None:
        for labelling in self.labels().T:
            assert all(len(set(labelling[patient == PATIENTS])) == 1 for patient in range(24))

    def test_every_test_part_keeps_its_number_of_patients_with_the_event(self) -> None:
        for labelling in self.labels().T:
            for rows in TESTS:
                patients = {int(patient): labelling[patient == PATIENTS][0] for patient in PATIENTS[rows]}
                truth = {int(patient): EVENT[patient == PATIENTS][0] for patient in PATIENTS[rows]}
                assert sum(patients.values()) == sum(truth.values())

    def test_the_seed_decides(self) -> None:
        np.testing.assert_array_equal(self.labels(), self.labels())
        assert (self.labels() != self.labels(seed=1)).any()

    def test_rows_that_never_test_are_dealt_among_themselves(self) -> None:
        found = permuted_labels(EVENT, PATIENTS, TESTS[:1], 20, 0)
        rest = np.setdiff1d(np.arange(len(EVENT)), TESTS[0])
        counts = [len({p for p in PATIENTS[rest] if row[p == PATIENTS][0]}) for row in found.T]
        assert set(counts) == {len({p for p in PATIENTS[rest] if EVENT[p == PATIENTS][0]})}


def test_each_labelling_is_what_a_call_with_its_labels_would_score() -> None:
    random = np.random.default_rng(0)
    matrix, event = random.normal(size=(60, 8)), random.integers(0, 2, 60)
    tests, patients = folds(60), np.arange(60)
    labels = permuted_labels(event, patients, tests, 12, 0)
    train, validation, test = parts(tests, 0)
    given = Given({"x": matrix})
    found = null_scores(given, labels, (train, validation, test), patients, Options(), "log-loss", "image")
    for at in range(12):
        truth = labels[:, at].astype(np.int64)
        task = Task("given", "logistic", truth, train, validation, test)
        answer = solve(task, given)
        if answer.chosen[0]["C"] < 1e-4:
            continue  # all scores are as good as 0.5: decisions hang on the last digits
        expected = matthews(Confusion.of(truth[test], (answer.test[0] >= 0.5).astype(np.int64)))
        assert found[at] == pytest.approx(expected, abs=0.11), "one decision at the boundary at most"


def mean_mcc(matrix: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(labellings,) mean over folds, labels (n, labellings)."""
    tests, patients = folds(len(labels)), np.arange(len(labels))
    table = [
        null_scores(Given({"x": matrix}), labels, parts(tests, fold), patients, Options(), "log-loss", "image")
        for fold in range(FOLDS)
    ]
    return np.asarray(np.nanmean(table, axis=0))


@pytest.mark.slow
def test_p_values_of_noise_are_uniform() -> None:
    found = []
    for seed in range(120):
        random = np.random.default_rng([7, seed])
        matrix, event = random.normal(size=(48, 6)), random.permutation(np.tile([0, 1], 24))
        labels = permuted_labels(event, np.arange(48), folds(48), 39, seed)
        observed = mean_mcc(matrix, np.column_stack([event.astype(np.int8), labels]))
        found.append(null_of(float(observed[0]), observed[1:], "refitted", "image")["p"])
    assert kstest(np.array(found) - np.random.default_rng(0).uniform(0, 1 / 40, 120), "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) < 0.12


def test_features_that_tell_have_the_least_p() -> None:
    random = np.random.default_rng(3)
    event = random.permutation(np.tile([0, 1], 30))
    matrix = random.normal(size=(60, 6)) + 2.5 * event[:, None]
    labels = permuted_labels(event, np.arange(60), folds(60), 19, 0)
    observed = mean_mcc(matrix, np.column_stack([event.astype(np.int8), labels]))
    assert null_of(float(observed[0]), observed[1:], "refitted", "image")["p"] == pytest.approx(0.05)
