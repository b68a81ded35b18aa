"""The results table: every record a row, the best first, and each set against its own control."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from peftbench.analysis.intervals import bootstrap_interval, corrected_interval
from peftbench.analysis.results import (
    COLUMNS,
    CURVE_COLUMNS,
    STRATA_COLUMNS,
    curve_table,
    folds_table,
    gain,
    is_control,
    results_table,
    strata_table,
)
from peftbench.protocol import metrics
from peftbench.protocol.records import FoldScore, Record, RunConfig
from peftbench.protocol.scoring import distribution, summarise

CONTROL = "control:view"

FACTS = {"cohort": "toy", "images": 50, "patients": 40, "events": 20, "event_patients": 15, "prevalence": 0.4}


def record(
    backbone: str,
    mcc: Sequence[float | list[float]],
    task: str = "TOY",
    unit: str = "image",
    read_back: bool = False,
    beside: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    """A record with these MCCs over folds (and draws), in the task's unit; in the other unit all are -1."""
    config = RunConfig(
        **{
            "task": task,
            "backbone": backbone,
            "strategy": "LP",
            "probe": "logistic",
            "regime": "full",
            "scheme": "k-fold",
            "folds": len(mcc),
            "shots": None,
            "draws": 1,
            "seed": 0,
            "settings": {},
            "task_digest": f"rows of {task}",
            "split_digest": f"split of {task}",
            "features": backbone * 9,
            "features_digest": "d" * 64,
            "version": "0.1.0",
            **changes,
        }
    )
    names = ("c_index",) if config.probe == "cox" else (*metrics.NAMES, *metrics.TUNED_NAMES)
    scores = [
        FoldScore(each, fold, draw, 10, 4, dict.fromkeys(names, value if each == unit else -1.0), {}, {})
        for fold, values in enumerate(mcc)
        for draw, value in enumerate(values if isinstance(values, list) else [values])
        for each in ("image", "patient")
    ]
    told = [score._asdict() for score in scores]
    summary = summarise(scores)
    if read_back:  # as JSON holds it: what is not defined is null
        told = [{**score, "metrics": without_nan(score["metrics"])} for score in told]
        summary = {each: {name: without_nan(found) for name, found in part.items()} for each, part in summary.items()}
    recipe = {} if is_control_name(backbone) else {"recipe": {"precision": "bf16"}}
    return Record(
        identity=config.identity,
        config=config,
        task={"unit": unit, **FACTS},
        scores=told,
        summary=summary,
        notes=[],
        provenance={"features": recipe},
        cost={},
        predictions_digest="0" * 64,
        status="complete",
        **(beside or {}),
    )


def is_control_name(backbone: str) -> bool:
    return backbone.startswith("control:")


def without_nan(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


class TestOrder:
    def test_by_task_then_the_best_first_and_controls_last(self) -> None:
        records = [
            record(CONTROL, [0.9, 0.9, 0.9]),
            record("weak", [0.1, 0.2, 0.0]),
            record("undefined", [math.nan] * 3),
            record("strong", [0.5, 0.6, 0.4]),
            record("other", [0.0, 0.0, 0.0], task="ANOTHER"),
        ]
        for given in (records, records[::-1]):
            table = results_table(given)
            expected = [("ANOTHER", "other"), *(("TOY", name) for name in ("strong", "weak", "undefined", CONTROL))]
            assert list(zip(table["task"], table["backbone"], strict=True)) == expected
            assert table.index.tolist() == list(range(5))

    def test_the_columns_are_as_stated(self) -> None:
        assert tuple(results_table([record("strong", [0.5, 0.6, 0.4])]).columns) == COLUMNS

    def test_without_records_there_is_an_empty_table(self) -> None:
        table = results_table([])
        assert tuple(table.columns) == COLUMNS
        assert table.empty


class TestRow:
    @pytest.mark.parametrize("unit", ["image", "patient"])
    def test_headline_scores_are_in_the_unit_of_the_task(self, unit: str) -> None:
        (row,) = results_table([record("strong", [0.5, 0.6, 0.4], unit=unit)]).to_dict("records")
        assert row["mcc_mean"] == pytest.approx(0.5)
        assert row["mcc_std"] == pytest.approx(0.1)
        assert row["roc_auc_mean"] == pytest.approx(0.5)
        assert row["patient_mcc_mean"] == pytest.approx(0.5 if unit == "patient" else -1)

    def test_counts_and_origin_are_copied(self) -> None:
        made = record("strong", [0.5, 0.6, 0.4])
        (row,) = results_table([made]).to_dict("records")
        expected = {**made.task, "identity": made.identity, "precision": "bf16", "folds": 3, "seed": 0}
        assert {name: row[name] for name in expected} == expected
        assert row["features"] == made.config.features[:16]


class TestGain:
    OURS, THEIRS = (0.5, 0.7, 0.3, 0.6, 0.4), (0.2, 0.3, 0.3, 0.1, 0.2)

    @pytest.mark.parametrize("read_back", [False, True])
    def test_it_is_the_paired_difference_to_the_control(self, read_back: bool) -> None:
        records = [
            record("strong", [*self.OURS], read_back=read_back),
            record(CONTROL, [*self.THEIRS], read_back=read_back),
        ]
        row = results_table(records).iloc[0]
        expected = corrected_interval(np.subtract(self.OURS, self.THEIRS), 0.2 / 0.6)
        assert (row["gain_mean"], row["gain_low"], row["gain_high"]) == pytest.approx(expected[:3])
        assert row["gain_mean"] > 0
        assert row["control"] == CONTROL

    def test_a_backbone_worse_than_the_control_loses(self) -> None:
        row = results_table([record("weak", [*self.THEIRS]), record(CONTROL, [*self.OURS])]).iloc[0]
        assert row["gain_mean"] == pytest.approx(-0.28)
        assert row["gain_low"] < row["gain_mean"] < row["gain_high"]

    @pytest.mark.parametrize(("folds", "ratio"), [(3, (1 / 3) / (2 / 3 - 0.2)), (4, 0.25 / 0.55), (5, 0.2 / 0.6)])
    def test_fewer_folds_have_larger_test_parts(self, folds: int, ratio: float) -> None:
        ours, theirs = [*self.OURS][:folds], [*self.THEIRS][:folds]
        found = gain(record("strong", ours), record(CONTROL, theirs))
        assert found == pytest.approx(corrected_interval(np.subtract(ours, theirs), ratio))

    @pytest.mark.parametrize("read_back", [False, True])
    def test_a_fold_without_a_value_on_either_side_is_left_out(self, read_back: bool) -> None:
        ours, theirs = [math.nan, *self.OURS[1:]], [*self.THEIRS[:4], math.nan]
        found = gain(record("strong", ours, read_back=read_back), record(CONTROL, theirs, read_back=read_back))
        assert found.folds == 3
        assert found.mean == pytest.approx(np.mean(np.subtract(self.OURS, self.THEIRS)[1:4]))

    def test_it_is_taken_in_the_unit_of_the_task(self) -> None:
        ours, theirs = (
            record(name, [*mcc], unit="patient") for name, mcc in (("a", self.OURS), (CONTROL, self.THEIRS))
        )
        assert gain(ours, theirs).mean == pytest.approx(0.28)

    def test_a_control_has_no_gain(self) -> None:
        table = results_table([record("strong", [*self.OURS]), record(CONTROL, [*self.THEIRS])])
        control = table[table["backbone"] == CONTROL].iloc[0]
        assert control[["gain_mean", "gain_low", "gain_high"]].isna().all()
        assert control["control"] == ""

    @pytest.mark.parametrize(
        "changes",
        [
            {"split_digest": "another division"},
            {"task_digest": "other labels"},
            {"regime": "few-shot"},
            {"version": "0.2.0"},
        ],
    )
    def test_a_control_of_something_else_is_no_control(self, changes: dict[str, object]) -> None:
        row = results_table([record("strong", [*self.OURS]), record(CONTROL, [*self.THEIRS], **changes)]).iloc[0]
        assert row["backbone"] == "strong"
        assert math.isnan(row["gain_mean"])
        assert row["control"] == ""

    def test_a_control_with_other_shots_is_no_control(self) -> None:
        ours = record("strong", [*self.OURS], regime="few-shot", shots=2)
        controls = [record(CONTROL, [shots / 100] * 5, regime="few-shot", shots=shots) for shots in (2, 32)]
        for given in ([ours, *controls], [ours, *controls[::-1]]):
            row = results_table(given).iloc[0]
            assert row["gain_mean"] == pytest.approx(np.mean(self.OURS) - 0.02)

    def test_each_task_has_its_own_control(self) -> None:
        records = [
            record(name, [value] * 5, task=task)
            for task, name, value in (
                ("A", "net", 0.5), ("A", CONTROL, 0.1), ("B", "net", 0.5), ("B", CONTROL, 0.4),
            )
        ]  # fmt: skip
        table = results_table(records).query("backbone == 'net'").set_index("task")
        assert table["gain_mean"].to_dict() == pytest.approx({"A": 0.4, "B": 0.1})


def control_of(name: str, *others: tuple[str, float], **changes: Any) -> str:
    """The control that a backbone is set against, whatever the order of the records."""
    records = [record(name, [0.5, 0.6, 0.4], **changes), *(record(each, [mcc] * 3, **changes) for each, mcc in others)]
    tables = [results_table(given).set_index("backbone") for given in (records, records[::-1])]
    (found,) = {str(table.loc[name, "control"]) for table in tables}
    return found


class TestStrongestControl:
    def test_it_has_the_highest_mean(self) -> None:
        others = [("control:view", 0.1), ("control:center", 0.3), ("control:images", -0.5), ("control:metadata", 0.2)]
        assert control_of("net", *others) == "control:center"

    def test_untrained_weights_of_the_same_architecture_are_among_them(self) -> None:
        others = [("control:view", 0.1), ("net@random:0", 0.3), ("net@random:1", 0.4), ("other@random:0", 0.9)]
        assert control_of("net", *others) == "net@random:1"
        assert control_of("net", ("other@random:0", 0.9), ("control:view", 0.1)) == "control:view"

    def test_untrained_weights_are_not_set_against_each_other(self) -> None:
        assert control_of("net@random:0", ("net@random:1", 0.4), ("control:view", 0.1)) == "control:view"
        assert control_of("net@random:0", ("net", 0.4)) == ""

    def test_clinical_variables_are_a_control_of_what_was_given_them(self) -> None:
        others = [("control:clinical", 0.4), ("control:view", 0.1), ("net@random:0 + clinical", 0.2)]
        assert control_of("net + clinical", *others) == "control:clinical"
        assert control_of("net", *others) == "control:view"
        assert control_of("net + clinical", *others[1:]) == "net@random:0 + clinical"

    def test_of_equals_it_is_the_one_that_sees_less(self) -> None:
        assert control_of("net", ("net@random:0", 0.1), ("control:view", 0.1)) == "control:view"

    def test_one_without_a_score_comes_last(self) -> None:
        assert control_of("net", ("control:view", math.nan), ("control:center", -0.9)) == "control:center"
        assert control_of("net", ("control:view", math.nan)) == "control:view"

    def test_of_a_cox_probe_the_c_index_counts(self) -> None:
        others = [("control:view", 0.51), ("control:center", 0.55)]
        assert control_of("net", *others, probe="cox") == "control:center"
        records = [
            record(name, [mcc] * 3, probe="cox", unit="patient") for name, mcc in (("net", 0.6), ("control:view", 0.5))
        ]
        row = results_table(records).iloc[0]
        assert row["gain_mean"] == pytest.approx(0.1)
        assert row["c_index_mean"] == pytest.approx(0.6)
        assert math.isnan(row["mcc_mean"])

    def test_another_probe_or_another_cohort_is_another_cell(self) -> None:
        ours = record("net", [0.5, 0.6, 0.4])
        for changes in ({"probe": "ridge"}, {"external": "OTHER"}, {"shots": 8}):
            table = results_table([ours, record(CONTROL, [0.1] * 3, **changes)])
            assert table.set_index("backbone").loc["net", "control"] == ""


class TestDraws:
    OURS, THEIRS = [[0.5, 0.7], [0.3, 0.1], [0.6, 0.8]], [[0.2, 0.0], [0.3, math.nan], [0.1, 0.3]]

    def test_a_fold_counts_once(self) -> None:
        found = gain(record("net", self.OURS, draws=2), record(CONTROL, self.THEIRS, draws=2))
        folds = [0.6 - 0.1, 0.2 - 0.3, 0.7 - 0.2]
        assert found == pytest.approx(corrected_interval(folds, (1 / 3) / (2 / 3 - 0.2)))
        assert found.folds == 3

    def test_more_of_the_same_draws_are_no_more_evidence(self) -> None:
        often = [gain(record("net", [v * times for v in self.OURS]), record(CONTROL, self.THEIRS)) for times in (1, 50)]
        assert often[0] == pytest.approx(often[1])

    def test_the_distribution_is_told(self) -> None:
        values = [[float(v) for v in row] for row in np.random.default_rng(0).normal(size=(3, 30))]
        made = record("net", values, regime="few-shot", shots=4, draws=30)
        scores = [FoldScore(**score) for score in made.scores]
        told = distribution(scores)
        full = made.model_copy(update={"distribution": told})
        (row,) = results_table([full]).to_dict("records")
        for column, name in (("mcc_q05", "q05"), ("mcc_median", "median"), ("mcc_worst_decile", "worst_decile")):
            assert row[column] == told["image"]["mcc"][name]
        (point,) = curve_table([full]).to_dict("records")
        assert (point["shots"], point["draws"], point["q95"]) == (4, 30, told["image"]["mcc"]["q95"])
        assert point["mean"] == pytest.approx(np.mean(values))


class TestBeside:
    def test_p_value_and_null(self) -> None:
        null = {"p": 0.02, "q95": 0.17, "permutations": 99}
        (row,) = results_table([record("net", [0.1, 0.2, 0.3], beside={"null": null})]).to_dict("records")
        assert (row["p_value"], row["null_q95"]) == (0.02, 0.17)
        (row,) = results_table([record("net", [0.1, 0.2, 0.3])]).to_dict("records")
        assert all(math.isnan(row[name]) for name in ("p_value", "null_q95", "mcc_q05", "mcc_low", "c_index_mean"))
        assert row["mcc_tuned_mean"] == row["brier_mean"] == row["ece_mean"] == pytest.approx(0.2)

    def test_strata_have_a_row_each(self) -> None:
        stratum = {"column": "view", "unit": "image", "size": 9, "events": 3, "folds": 3,
                   "mcc_mean": 0.1, "mcc_std": None, "pr_auc_mean": 0.4, "pr_auc_std": 0.1}  # fmt: skip
        strata = [{**stratum, "value": value} for value in ("AP", "PA")]
        table = strata_table([record("net", [0.1] * 3, beside={"strata": strata}), record(CONTROL, [0.1] * 3)])
        assert tuple(table.columns) == STRATA_COLUMNS
        assert table["value"].tolist() == ["AP", "PA"]
        assert strata_table([]).columns.tolist() == list(STRATA_COLUMNS)

    def test_curves_are_of_what_has_a_number_of_images(self) -> None:
        few = [record("net", [0.1] * 3, regime="few-shot", shots=shots) for shots in (8, 2)]
        others = [
            record("net", [0.1] * 3),
            record("net", [0.1] * 3, regime="few-shot", shots=2, external="OTHER"),
            record("net", [0.1] * 3, regime="few-shot", shots=2, probe="cox"),
        ]
        table = curve_table([*few, *others])
        assert tuple(table.columns) == CURVE_COLUMNS
        assert table["shots"].tolist() == [2, 8]
        assert curve_table([]).empty


class TestExternal:
    def predictions(self, made: Record) -> pd.DataFrame:
        random = np.random.default_rng(len(made.config.backbone))
        event = np.arange(40) // 2 % 2
        skill = 0.6 if made.config.backbone == "net" else 0.1
        score = np.clip(0.5 + skill * (event - 0.5) + random.normal(size=40) * 0.2, 0, 1)
        columns = {"sample_id": [f"s-{at}" for at in range(40)], "patient_id": np.arange(40) // 2}
        frame = pd.DataFrame({"fold": -1, "draw": 0, "role": "test", **columns, "event": event, "score": score})
        return pd.concat(
            [frame.sample(frac=1, random_state=len(made.config.backbone)), frame.assign(fold=0, score=0.0)]
        )

    def test_intervals_are_those_of_the_bootstrap(self) -> None:
        ours, theirs = (record(name, [0.1] * 3, external="OTHER") for name in ("net", CONTROL))
        row = results_table([ours, theirs], self.predictions).iloc[0]
        frames = [self.predictions(each).query("fold == -1").sort_values("sample_id") for each in (ours, theirs)]
        who = [frames[0]["patient_id"], frames[0]["event"]]
        gained = bootstrap_interval(*who, *(frame["score"] for frame in frames))
        own = bootstrap_interval(*who, frames[0]["score"])
        assert (row["gain_mean"], row["gain_low"], row["gain_high"]) == pytest.approx(gained[:3])
        assert (row["mcc_low"], row["mcc_high"]) == pytest.approx(own[1:3])
        assert row["control"] == CONTROL
        assert row["external"] == "OTHER"

    def test_without_predictions_there_is_a_gain_without_an_interval(self) -> None:
        records = [record(name, [mcc] * 3, external="OTHER") for name, mcc in (("net", 0.5), (CONTROL, 0.2))]
        row = results_table(records).iloc[0]
        assert row["gain_mean"] == pytest.approx(0.3)
        assert math.isnan(row["gain_low"])

    def test_images_that_only_one_of_both_has_do_not_count(self) -> None:
        ours, theirs = (record(name, [0.1] * 3, external="OTHER") for name in ("net", CONTROL))

        def none_shared(made: Record) -> pd.DataFrame:
            frame = self.predictions(made)
            return frame.assign(sample_id=frame["sample_id"] + made.config.backbone)

        assert math.isnan(results_table([ours, theirs], none_shared).iloc[0]["gain_mean"])

    def test_they_stand_after_the_tasks_own(self) -> None:
        records = [record("net", [0.9] * 3, external="OTHER"), record(CONTROL, [0.1] * 3), record("net", [0.2] * 3)]
        table = results_table(records)
        assert list(zip(table["backbone"], table["external"], strict=True)) == [
            ("net", ""), (CONTROL, ""), ("net", "OTHER"),
        ]  # fmt: skip


@pytest.mark.parametrize(("backbone", "expected"), [(CONTROL, True), ("resnet18", False), ("my-control:x", False)])
def test_a_control_is_known_by_its_name(backbone: str, expected: bool) -> None:
    assert is_control(record(backbone, [0.1, 0.2, 0.3])) is expected


def test_the_folds_table_has_a_row_for_each_record_unit_and_fold() -> None:
    records = [record("strong", [0.5, math.nan, 0.4]), record(CONTROL, [0.1, 0.2, 0.3])]
    table = folds_table(records)
    assert len(table) == 2 * 2 * 3
    assert set(metrics.NAMES) <= set(table.columns)
    images = table.query("unit == 'image'").pivot_table(index="backbone", columns="fold", values="mcc")
    expected = pd.DataFrame({0: [0.1, 0.5], 1: [0.2, math.nan], 2: [0.3, 0.4]}, index=[CONTROL, "strong"])
    np.testing.assert_array_equal(images.to_numpy(), expected.to_numpy())
    assert set(table["identity"]) == {each.identity for each in records}
