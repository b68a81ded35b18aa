"""The results table: every record a row, the best first, and each set against its own control."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from peftbench.analysis.intervals import corrected_interval
from peftbench.analysis.results import COLUMNS, folds_table, gain, is_control, results_table
from peftbench.protocol import metrics
from peftbench.protocol.records import FoldScore, Record, RunConfig, summarise

CONTROL = "control:view"

FACTS = {"cohort": "toy", "images": 50, "patients": 40, "events": 20, "event_patients": 15, "prevalence": 0.4}


def record(
    backbone: str, mcc: list[float], task: str = "TOY", unit: str = "image", read_back: bool = False, **changes: Any
) -> Record:
    """A record with these MCCs over folds, in the task's unit; in the other unit all are -1."""
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
    scores = [
        FoldScore(each, fold, 0, 10, 4, dict.fromkeys(metrics.NAMES, value if each == unit else -1.0), {}, {})
        for fold, value in enumerate(mcc)
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
