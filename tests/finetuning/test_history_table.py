"""The history of trainings as one table."""

import math

import numpy as np
import pandas as pd
import pytest
from finetune_kit import Shown, bench_of, parts_of, settings, trained

from peftbench.finetuning.history import history_table

COLUMNS = [
    "fold",
    "draw",
    "epoch",
    "head_rate",
    "train_loss",
    "validation_loss",
    "validation_mcc",
    "rate",
    "seconds",
    "images_per_second",
]


def test_one_row_a_fold_draw_epoch_and_head(shown: Shown) -> None:
    how = settings(epochs=3, evaluate_every=2, head_learning_rates=(1e-2, 2.5e-5))
    found = trained(bench_of("vit", shown), "BitFit", how, parts_of(shown)).at.history
    table = history_table([(0, 0, found), (1, 3, found[:2])])
    assert list(table.columns) == COLUMNS
    assert len(table) == 2 * 3 + 2 * 2
    assert table["head_rate"].unique().tolist() == [1e-2, 2.5e-5]
    for row in table.to_dict("records"):
        epoch = found[row["epoch"] - 1]
        rate = f"{row['head_rate']:g}"
        assert row["train_loss"] == epoch[f"train_loss_{rate}"]
        assert row["seconds"] == epoch["seconds"]
        assert row["rate"] == 1e-3
        if row["epoch"] == 1:
            assert math.isnan(row["validation_loss"])
            assert math.isnan(row["validation_mcc"])
        else:
            assert row["validation_loss"] == epoch[f"validation_loss_{rate}"]
            assert row["validation_mcc"] == epoch[f"validation_mcc_{rate}"]


def test_of_a_frozen_backbone_each_head_has_its_own_rate(shown: Shown) -> None:
    how = settings(epochs=2, head_learning_rates=(1e-2, 1e-3), warmup_epochs=1)
    found = trained(bench_of("dense", shown), "LP", how, parts_of(shown), cached=True).at.history
    table = history_table([(0, 0, found)])
    assert table["rate"].tolist() == pytest.approx([5e-3, 5e-4, 1e-2, 1e-3])


def test_it_comes_back_from_csv(shown: Shown, tmp_path: object) -> None:
    found = trained(bench_of("dense", shown), "LP", settings(), parts_of(shown), cached=True).at.history
    table = history_table([(0, 0, found)])
    path = f"{tmp_path}/history.csv"
    table.to_csv(path, index=False)
    again = pd.read_csv(path)
    assert list(again.columns) == COLUMNS
    np.testing.assert_allclose(again["train_loss"], table["train_loss"], rtol=1e-14)


def test_without_trainings_it_has_its_columns() -> None:
    assert list(history_table([]).columns) == COLUMNS
