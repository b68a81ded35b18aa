"""One cell: learnt on the training part alone, settings chosen on held-out rows, and the test part only predicted."""

from typing import Any

import numpy as np
import pytest
from probe_kit import Matrix, cohort_rows, telling_features
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, matthews_corrcoef
from sklearn.preprocessing import StandardScaler

from peftbench.probing.cells import Answer, Task, solve
from peftbench.probing.families import logistic
from peftbench.probing.families.family import Options
from peftbench.probing.families.logistic import COSTS, FEW_COSTS, LogisticFamily
from peftbench.probing.families.scaling import Scaler
from peftbench.probing.given import Given
from peftbench.probing.logistic import walk_path
from peftbench.probing.permuting import permuted_labels
from peftbench.protocol.metrics import balanced_log_loss
from peftbench.protocol.splits import k_fold
from peftbench.protocol.splits.draws import Draws

ROWS = cohort_rows(20, 30)
EVENT = ROWS.frame["event"].to_numpy()
MATRIX = telling_features(EVENT)
SPLIT = k_fold(ROWS)
TRAIN, VALIDATION, TEST = (SPLIT.positions(0, role) for role in ("train", "validation", "test"))
SUPPORTS = {shots: np.stack([Draws(ROWS, SPLIT).few_shot(0, shots, draw) for draw in range(6)]) for shots in (2, 4, 8)}

OWN = ("logistic", "ridge", "knn", "centroid")


def task(event: np.ndarray = EVENT, **changes: Any) -> Task:
    """Fold 0; with `supports`, few-shot."""
    few = changes.get("supports") is not None
    words: dict[str, Any] = {
        "given": "toy",
        "probe": "logistic",
        "event": event,
        "train": TRAIN,
        "validation": VALIDATION,
        "test": TEST,
        "chosen_on": "support" if few else "validation",
        "options": Options("global" if few else "feature", few=few),
        "patients": np.arange(len(event)),
    }
    return Task(**{**words, **changes})


def cell(matrix: Matrix = MATRIX, event: np.ndarray = EVENT, **changes: Any) -> Answer:
    """Fold 0, of other features or labels under the same split."""
    return solve(task(event, **changes), Given({"embedding": matrix}))


@pytest.fixture
def one_cost(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """The only C that there is."""
    cost = float(getattr(request, "param", 0.1))
    monkeypatch.setattr(logistic, "LOGISTIC", LogisticFamily((cost,)))
    return cost


def scores(found: Answer, role: str) -> np.ndarray:
    return {"validation": found.held_out, "test": found.test}[role][0]


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
        (chosen,) = cell().chosen
        assert chosen["C"] == COSTS[int(np.argmin(losses))]
        assert chosen["validation_log_loss"] == pytest.approx(min(losses), abs=1e-5)
        assert COSTS[0] < chosen["C"] < COSTS[-1], "the choice is not at an end of the path"

    @pytest.mark.parametrize("one_cost", [1e-4, 0.1, 10.0], indirect=True)
    def test_predictions_are_those_of_a_fit_to_the_training_part(self, one_cost: float) -> None:
        found = cell()
        for role, expected in zip(("validation", "test"), reference(one_cost), strict=True):
            # What a solution proven to a gap of 1e-9 leaves open in a probability.
            np.testing.assert_allclose(scores(found, role), expected, rtol=0, atol=3e-5)

    def test_by_mcc_the_chosen_c_has_the_highest_on_validation(self) -> None:
        (chosen,) = cell(criterion="mcc").chosen
        event = EVENT[VALIDATION]
        found = [matthews_corrcoef(event, reference(cost)[0] >= 0.5) for cost in COSTS]
        assert chosen["C"] == COSTS[int(np.argmax(found))]
        assert chosen["validation_1_minus_mcc"] == pytest.approx(1 - max(found))

    @pytest.mark.slow
    def test_under_permuted_labels_everything_is_done_again(self) -> None:
        """As scikit-learn does it, one labelling after the other: fit, choice of C on validation, test."""
        labels = permuted_labels(EVENT, np.arange(len(EVENT)), [TEST], 24, 0)
        scaler = StandardScaler().fit(MATRIX[TRAIN])
        train, validation, test = (scaler.transform(MATRIX[part]) for part in (TRAIN, VALIDATION, TEST))
        expected = []
        for truth in labels.T.astype(np.int64):
            tried: list[tuple[float, float]] = []
            for cost in COSTS:
                model = LogisticRegression(C=cost, class_weight="balanced", tol=1e-10, max_iter=10_000)
                model.fit(train, truth[TRAIN])
                score = model.predict_proba(test)[:, 1]
                loss = balanced_log_loss(truth[VALIDATION], model.predict_proba(validation)[:, 1])
                tried.append((loss, matthews_corrcoef(truth[TEST], score >= 0.5)))
            expected.append(min(tried, key=lambda each: each[0])[1])
        found = cell(labels=labels).null
        # With little to learn, scores may lie nearer to 0.5 than a solution is exact: then either decision is right.
        again = [cell(event=truth).test[0] for truth in labels.T.astype(np.int64)]
        told = np.array([np.abs(score - 0.5).min() > 1e-5 for score in again])
        assert told.sum() >= 6
        alike = np.array([matthews_corrcoef(labels[TEST, at], score >= 0.5) for at, score in enumerate(again)])
        np.testing.assert_allclose(found[told], alike[told], atol=1e-12)
        # A path may be left at its plateau before a lower loss.
        assert (np.abs(found - expected)[told] < 1e-9).sum() >= told.sum() - 1

    def test_true_labels_are_not_touched_by_permuted_ones(self) -> None:
        labels = permuted_labels(EVENT, np.arange(len(EVENT)), [TEST], 5, 0)
        assert cell(labels=labels).chosen == cell().chosen
        np.testing.assert_array_equal(cell(labels=labels).test, cell().test)
        assert cell().null.shape == (0,)


def test_permuted_labels_are_dealt_among_the_patients_of_each_test_part() -> None:
    patients = np.arange(len(EVENT)) // 2
    event = (patients < 10).astype(np.int64)
    tests = [np.arange(fold * 10, fold * 10 + 10) for fold in range(5)]
    labels = permuted_labels(event, patients, tests, 30, 1)
    for labelling in labels.T:
        assert (labelling[0::2] == labelling[1::2]).all(), "all images of a patient have one outcome"
        assert all(labelling[part].sum() == event[part].sum() for part in tests)
    mixed = permuted_labels(np.tile([1, 1, 0, 0], 13)[:50], patients, tests, 30, 1)
    assert len({tuple(each) for each in mixed.T}) == 30
    np.testing.assert_array_equal(labels, permuted_labels(event, patients, tests, 30, 1))


class TestNothingLeaks:
    """Whatever becomes of the test part, nothing that is learnt or chosen changes; for every probe of our own."""

    @pytest.mark.parametrize("probe", OWN)
    @pytest.mark.parametrize("shots", [None, 2, 8])
    @pytest.mark.parametrize("seed", range(2))
    def test_labels_of_the_test_part_change_nothing(self, probe: str, shots: int | None, seed: int) -> None:
        event = EVENT.copy()
        event[TEST] = np.random.default_rng(seed).permutation(1 - event[TEST])
        words = {"probe": probe, "supports": None if shots is None else SUPPORTS[shots], "calibrate": True}
        found, expected = cell(event=event, **words), cell(**words)
        assert found.chosen == expected.chosen
        np.testing.assert_array_equal(found.held_out, expected.held_out)
        np.testing.assert_array_equal(found.test, expected.test)

    @pytest.mark.parametrize("probe", OWN)
    @pytest.mark.parametrize("shots", [None, 2, 8])
    def test_features_of_the_test_part_change_no_score_of_others_and_no_choice(
        self, probe: str, shots: int | None
    ) -> None:
        matrix = MATRIX.copy()
        matrix[TEST] = 3 * matrix[TEST] + 7
        words = {"probe": probe, "supports": None if shots is None else SUPPORTS[shots]}
        found, expected = cell(matrix, **words), cell(**words)
        setting = [{name: each[name] for name in each if "loss" not in name} for each in expected.chosen]
        assert [{name: each[name] for name in each if "loss" not in name} for each in found.chosen] == setting
        # The Gram matrix of all images is of features minus the mean of all: the same but for rounding.
        np.testing.assert_allclose(found.held_out, expected.held_out, rtol=0, atol=0 if shots is None else 1e-9)

    @pytest.mark.parametrize("probe", OWN)
    @pytest.mark.parametrize("shots", [2, 8])
    @pytest.mark.parametrize("part", ["labels", "features"])
    def test_chosen_on_the_support_set_the_validation_part_plays_no_role(
        self, probe: str, shots: int, part: str
    ) -> None:
        matrix, event = MATRIX.copy(), EVENT.copy()
        if part == "labels":
            event[VALIDATION] = 1 - event[VALIDATION]
        else:
            matrix[VALIDATION] *= -5
        words = {"probe": probe, "supports": SUPPORTS[shots]}
        found, expected = cell(matrix, event, **words), cell(**words)
        np.testing.assert_allclose(found.test, expected.test, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(found.held_out_at, SUPPORTS[shots])
        np.testing.assert_allclose(found.held_out, expected.held_out, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("probe", OWN)
    def test_images_of_the_training_part_beyond_the_support_set_play_no_role(self, probe: str) -> None:
        supports = SUPPORTS[4][:1]
        others = np.setdiff1d(TRAIN, supports[0])
        matrix, event = MATRIX.copy(), EVENT.copy()
        matrix[others], event[others] = -5, 1 - event[others]
        found, expected = cell(matrix, event, probe=probe, supports=supports), cell(probe=probe, supports=supports)
        np.testing.assert_allclose(found.test, expected.test, rtol=0, atol=1e-9)

    def test_a_test_image_is_scored_by_itself(self) -> None:
        matrix = MATRIX.copy()
        matrix[TEST[1:]] = -50
        # Products of matrices of the same shape: to the last bit.
        assert scores(cell(matrix), "test")[0] == scores(cell(), "test")[0]

    @pytest.mark.usefixtures("one_cost")
    @pytest.mark.parametrize("part", ["features", "labels"])
    def test_the_validation_part_chooses_c_and_nothing_else(self, part: str) -> None:
        matrix, event = MATRIX.copy(), EVENT.copy()
        if part == "features":
            matrix[VALIDATION] *= -100
        else:
            event[VALIDATION] = 1 - event[VALIDATION]
        np.testing.assert_array_equal(scores(cell(matrix, event), "test"), scores(cell(), "test"))

    def test_every_feature_and_label_of_the_training_part_counts(self) -> None:
        for position in TRAIN[::7]:
            matrix, event = MATRIX.copy(), EVENT.copy()
            matrix[position, 1] += 1
            event[position] = 1 - event[position]
            assert (scores(cell(matrix), "test") != scores(cell(), "test")).any()
            assert (scores(cell(event=event), "test") != scores(cell(), "test")).any()


class TestFewShot:
    @pytest.mark.parametrize("shots", SUPPORTS)
    @pytest.mark.parametrize("chosen_on", ["support", "validation"])
    @pytest.mark.parametrize("class_weight", ["balanced", "none"])
    def test_side_by_side_is_one_after_the_other(self, shots: int, chosen_on: str, class_weight: str) -> None:
        """Each support set on its own: its features centred and scaled by one number, C as it was chosen."""
        options = Options("global", class_weight, few=True)
        found = cell(supports=SUPPORTS[shots], chosen_on=chosen_on, options=options)
        for draw, support in enumerate(SUPPORTS[shots]):
            scaler = Scaler.fit(MATRIX[support], "global")
            chosen = [found.chosen[draw]["C"]]
            (fit,) = walk_path(
                scaler.apply(MATRIX[support]), EVENT[support], chosen, balanced=class_weight == "balanced"
            )
            np.testing.assert_allclose(found.test[draw], fit.probability(scaler.apply(MATRIX[TEST])), atol=1e-4)

    @pytest.mark.parametrize("shots", SUPPORTS)
    def test_on_validation_the_chosen_c_has_the_lowest_loss(self, shots: int) -> None:
        found = cell(supports=SUPPORTS[shots], chosen_on="validation")
        for draw, support in enumerate(SUPPORTS[shots]):
            scaler = Scaler.fit(MATRIX[support], "global")
            fits = walk_path(scaler.apply(MATRIX[support]), EVENT[support], FEW_COSTS)
            held_out = scaler.apply(MATRIX[VALIDATION])
            losses = [balanced_log_loss(EVENT[VALIDATION], fit.probability(held_out)) for fit in fits]
            assert found.chosen[draw]["C"] == FEW_COSTS[int(np.argmin(losses))]
            assert found.chosen[draw]["validation_log_loss"] == pytest.approx(min(losses), abs=1e-5)

    def test_on_the_support_set_the_loss_is_that_of_the_fits_without_each_image(self) -> None:
        found = cell(supports=SUPPORTS[8])
        for draw, support in enumerate(SUPPORTS[8]):
            told = found.chosen[draw]["support_log_loss"]
            assert told == pytest.approx(balanced_log_loss(EVENT[support], found.held_out[draw]))

    @pytest.mark.parametrize("probe", OWN)
    def test_a_draw_does_not_depend_on_the_others(self, probe: str) -> None:
        found = cell(probe=probe, supports=SUPPORTS[4])
        for draw in range(len(SUPPORTS[4])):
            alone = cell(probe=probe, supports=SUPPORTS[4][draw : draw + 1])
            np.testing.assert_allclose(alone.test[0], found.test[draw], rtol=0, atol=1e-12)
            assert alone.chosen[0] == pytest.approx(found.chosen[draw])

    @pytest.mark.parametrize("probe", OWN)
    def test_a_draw_of_telling_features_tells(self, probe: str) -> None:
        matrix = telling_features(EVENT, signal=8)
        found = cell(matrix, probe=probe, supports=SUPPORTS[8])
        assert np.mean((found.test >= 0.5) == EVENT[TEST]) > 0.9

    @pytest.mark.parametrize("probe", OWN)
    def test_of_constant_features_every_score_is_a_half(self, probe: str) -> None:
        with np.errstate(all="raise", under="ignore"):
            found = cell(np.ones_like(MATRIX), probe=probe, supports=SUPPORTS[2])
        np.testing.assert_allclose(found.test, 0.5, atol=1e-9)


class TestReadings:
    def given(self, *names: str) -> Given:
        known = {"noise": np.random.default_rng(5).normal(size=MATRIX.shape), "telling": telling_features(EVENT, 0, 6)}
        return Given({name: known[name] for name in names})

    @pytest.mark.parametrize("shots", [None, 8])
    @pytest.mark.parametrize("chosen_on", ["support", "validation"])
    @pytest.mark.parametrize("order", [("noise", "telling"), ("telling", "noise")])
    def test_the_reading_that_does_best_on_held_out_rows_is_taken(
        self, shots: int | None, chosen_on: str, order: tuple[str, str]
    ) -> None:
        words = {} if shots is None else {"supports": SUPPORTS[shots], "chosen_on": chosen_on}
        found = solve(task(**words), self.given(*order))
        alone = solve(task(**words), self.given("telling"))
        assert {each.pop("reading") for each in found.chosen} == {"telling"}
        assert found.chosen == alone.chosen
        np.testing.assert_array_equal(found.test, alone.test)
        np.testing.assert_array_equal(found.held_out, alone.held_out)

    def test_of_one_reading_nothing_is_said(self) -> None:
        assert "reading" not in cell().chosen[0]


class TestTemperature:
    @pytest.mark.parametrize("shots", [None, 4])
    def test_ranks_and_decisions_stay_and_the_loss_where_it_was_learnt_is_no_higher(self, shots: int | None) -> None:
        words = {} if shots is None else {"supports": SUPPORTS[shots]}
        plain, found = cell(**words), cell(**words, calibrate=True)
        for draw, chosen in enumerate(found.chosen):
            assert chosen.pop("temperature") > 0
            assert chosen == plain.chosen[draw]
            before, after = plain.test[draw], found.test[draw]
            np.testing.assert_array_equal(np.argsort(before, kind="stable"), np.argsort(after, kind="stable"))
            np.testing.assert_array_equal(before >= 0.5, after >= 0.5)
            event = EVENT[found.held_out_at[draw]]
            assert log_loss(event, found.held_out[draw]) <= log_loss(event, plain.held_out[draw]) + 1e-9

    def test_where_nothing_is_held_out_scores_stay(self) -> None:
        """A classifier without a closed leave-one-out says nothing of its support images."""
        words = {"probe": "sklearn.naive_bayes.GaussianNB", "supports": SUPPORTS[4]}
        plain, found = cell(**words), cell(**words, calibrate=True)
        assert found.held_out.shape == (6, 0)
        np.testing.assert_allclose(found.test, plain.test, rtol=0, atol=1e-9)


class TestChoice:
    def test_where_learning_misleads_the_strongest_regularisation_is_chosen(self) -> None:
        event = EVENT.copy()
        event[VALIDATION] = 1 - event[VALIDATION]
        assert cell(event=event).chosen[0]["C"] == COSTS[0]

    @pytest.mark.parametrize("criterion", ["log-loss", "mcc"])
    def test_of_equal_losses_the_smallest_c_is_chosen(self, criterion: str) -> None:
        assert cell(np.zeros_like(MATRIX), criterion=criterion).chosen[0]["C"] == COSTS[0]
        few = cell(np.zeros_like(MATRIX), criterion=criterion, supports=SUPPORTS[4])
        assert {each["C"] for each in few.chosen} == {FEW_COSTS[0]}

    def test_costs_are_two_a_decade(self) -> None:
        np.testing.assert_allclose(COSTS, np.logspace(-5, 1, 13), rtol=1e-5)
        np.testing.assert_allclose(FEW_COSTS, np.logspace(-4, 0, 9), rtol=1e-5)


class TestAnswer:
    def test_it_names_the_rows_that_the_setting_was_chosen_on(self) -> None:
        np.testing.assert_array_equal(cell().held_out_at, [VALIDATION])
        few = cell(supports=SUPPORTS[2], chosen_on="validation")
        np.testing.assert_array_equal(few.held_out_at, [VALIDATION] * 6)
        assert few.test.shape == (6, len(TEST))

    def test_single_precision_features_are_computed_in_double(self) -> None:
        single = MATRIX.astype(np.float32)
        for words in ({}, {"supports": SUPPORTS[4]}):
            one, other = cell(single, **words), cell(single.astype(np.float64), **words)
            np.testing.assert_array_equal(one.test, other.test)
