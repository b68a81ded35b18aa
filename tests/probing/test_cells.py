"""One fold: learnt on the training part, C chosen on the validation part, and the test part only predicted."""

import numpy as np
import pytest
from probe_kit import Matrix, cohort_rows, telling_features
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from peftbench.probing.cells import COSTS, Cell, probe_fold
from peftbench.protocol.records import PREDICTION_COLUMNS
from peftbench.protocol.splits import k_fold
from peftbench.protocol.tasks import TaskRows

ROWS = cohort_rows(20, 30)
EVENT = ROWS.frame["event"].to_numpy()
MATRIX = telling_features(EVENT)
SPLIT = k_fold(ROWS)
TRAIN, VALIDATION, TEST = (SPLIT.positions(0, role) for role in ("train", "validation", "test"))


def cell(matrix: Matrix = MATRIX, event: np.ndarray = EVENT, costs: tuple[float, ...] = COSTS) -> Cell:
    """Fold 0, of other features or labels under the same split."""
    rows = TaskRows(ROWS.task, ROWS.frame.assign(event=event), ())
    return probe_fold(rows, SPLIT, 0, matrix, costs)


def scores(found: Cell, role: str) -> np.ndarray:
    return found.predictions.loc[found.predictions["role"] == role, "score"].to_numpy()


def reference(cost: float) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's probabilities of the validation and the test part."""
    scaler = StandardScaler().fit(MATRIX[TRAIN])
    model = LogisticRegression(C=cost, class_weight="balanced", tol=1e-10, max_iter=10_000)
    model.fit(scaler.transform(MATRIX[TRAIN]), EVENT[TRAIN])
    validation, test = (model.predict_proba(scaler.transform(MATRIX[part]))[:, 1] for part in (VALIDATION, TEST))
    return validation, test


def reference_loss(cost: float) -> float:
    event = EVENT[VALIDATION]
    weight = np.where(event == 1, 1 / event.sum(), 1 / (1 - event).sum())
    return log_loss(event, reference(cost)[0], sample_weight=weight)


class TestAgainstScikitLearn:
    def test_the_chosen_c_has_the_lowest_validation_loss(self) -> None:
        losses = [reference_loss(cost) for cost in COSTS]
        chosen = cell().chosen
        assert chosen["C"] == COSTS[int(np.argmin(losses))]
        assert chosen["validation_log_loss"] == pytest.approx(min(losses), abs=1e-6)
        assert COSTS[0] < chosen["C"] < COSTS[-1], "the choice is not at an end of the path"

    @pytest.mark.parametrize("cost", [1e-4, 0.1, 10.0])
    def test_predictions_are_those_of_a_fit_to_the_training_part(self, cost: float) -> None:
        found = cell(costs=(cost,))
        for role, expected in zip(("validation", "test"), reference(cost), strict=True):
            np.testing.assert_allclose(scores(found, role), expected, rtol=0, atol=1e-6)


class TestNothingLeaks:
    @pytest.mark.parametrize("seed", range(3))
    def test_labels_of_the_test_part_change_no_score_and_no_choice(self, seed: int) -> None:
        event = EVENT.copy()
        event[TEST] = np.random.default_rng(seed).permutation(1 - event[TEST])
        found = cell(event=event)
        assert found.chosen == cell().chosen
        for role in ("validation", "test"):
            np.testing.assert_array_equal(scores(found, role), scores(cell(), role))

    def test_features_of_the_test_part_change_no_score_of_others_and_no_choice(self) -> None:
        matrix = MATRIX.copy()
        matrix[TEST] = 1000 * matrix[TEST] + 77
        found = cell(matrix)
        assert found.chosen == cell().chosen
        np.testing.assert_array_equal(scores(found, "validation"), scores(cell(), "validation"))

    def test_a_test_image_is_scored_by_itself(self) -> None:
        matrix = MATRIX.copy()
        matrix[TEST[1:]] = -50
        # Products of matrices of the same shape: to the last bit.
        assert scores(cell(matrix), "test")[0] == scores(cell(), "test")[0]

    @pytest.mark.parametrize("part", ["features", "labels"])
    def test_the_validation_part_chooses_c_and_nothing_else(self, part: str) -> None:
        matrix, event = MATRIX.copy(), EVENT.copy()
        if part == "features":
            matrix[VALIDATION] *= -100
        else:
            event[VALIDATION] = 1 - event[VALIDATION]
        fixed = (0.1,)
        np.testing.assert_array_equal(scores(cell(matrix, event, fixed), "test"), scores(cell(costs=fixed), "test"))

    def test_every_feature_and_label_of_the_training_part_counts(self) -> None:
        for position in TRAIN[::7]:
            matrix, event = MATRIX.copy(), EVENT.copy()
            matrix[position, 1] += 1
            event[position] = 1 - event[position]
            assert (scores(cell(matrix), "test") != scores(cell(), "test")).any()
            assert (scores(cell(event=event), "test") != scores(cell(), "test")).any()


class TestChoice:
    def test_where_learning_misleads_the_strongest_regularisation_is_chosen(self) -> None:
        event = EVENT.copy()
        event[VALIDATION] = 1 - event[VALIDATION]
        assert cell(event=event).chosen["C"] == COSTS[0]

    def test_of_equal_losses_the_smallest_c_is_chosen(self) -> None:
        assert cell(np.zeros_like(MATRIX)).chosen["C"] == COSTS[0]

    def test_costs_are_two_a_decade_from_1e_5_to_10(self) -> None:
        np.testing.assert_allclose(COSTS, np.logspace(-5, 1, 13), rtol=1e-5)


class TestPredictions:
    def test_they_name_the_images_of_the_validation_and_the_test_part(self) -> None:
        found = cell().predictions
        assert tuple(found.columns) == PREDICTION_COLUMNS
        for role, part in (("validation", VALIDATION), ("test", TEST)):
            rows = found[found["role"] == role]
            expected = ROWS.frame.iloc[part]
            for column in ("sample_id", "patient_id", "event"):
                assert rows[column].tolist() == expected[column].tolist()
        assert len(found) == len(VALIDATION) + len(TEST)

    def test_the_fold_is_written_down(self) -> None:
        assert set(probe_fold(ROWS, SPLIT, 3, MATRIX).predictions["fold"]) == {3}

    def test_single_precision_features_are_computed_in_double(self) -> None:
        single = MATRIX.astype(np.float32)
        np.testing.assert_array_equal(scores(cell(single), "test"), scores(cell(single.astype(np.float64)), "test"))
