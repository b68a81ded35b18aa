"""From a raw phantom to scores through the command line, as a user walks it; embedding in a process of its own."""

import json
from pathlib import Path

import pandas as pd
import pytest
from cli_kit import invoke, rows_of, run

pytestmark = pytest.mark.slow

PRETRAINED = "efficientnet-lite0"


def test_prepare_extract_probe(phantom_raw: Path, tmp_path: Path) -> None:
    env = {"PEFTBENCH_WORKSPACE": str(tmp_path / "workspace")}
    prepared = invoke("prepare", "phantom", "--raw", str(phantom_raw), "--json", env=env).answer
    table = pd.read_csv(phantom_raw / "phantom.csv")
    assert prepared["images"] == len(table)

    words = ("extract", "phantom", "--backbone", PRETRAINED, "--precision", "fp32", "--device", "cpu", "--json")
    (extracted,) = rows_of(run(*words, **env))
    assert (extracted["total"], extracted["embedded"], extracted["dim"]) == (len(table), len(table), 1280)

    scored = rows_of(invoke("probe", "PHA_icu", "PHA_icu_all", "--backbone", PRETRAINED, "--json", env=env))
    kinds = [PRETRAINED, "control:view", "control:center", "control:images", "control:metadata"]
    expected = [(task, kind) for task in ("PHA_icu", "PHA_icu_all") for kind in kinds]
    assert [(row["task"], row["backbone"]) for row in scored] == expected
    for row in scored:
        record = json.loads((Path(row["record"]) / "record.json").read_text())
        predictions = pd.read_parquet(Path(row["record"]) / "predictions.parquet")
        tested = predictions[predictions["role"] == "test"]
        assert record["status"] == "complete"
        assert tested["sample_id"].is_unique, "an image is tested once"
        assert len(tested) == prepared["tasks"][row["task"]]["images"]
        assert tested["event"].sum() == prepared["tasks"][row["task"]]["events"]
        assert tested["score"].between(0, 1).all()
    by_name = {row["backbone"]: row for row in scored if row["task"] == "PHA_icu_all"}
    # The outcome is in the pictures by construction, and the view knows nothing of it.
    assert by_name[PRETRAINED]["pr_auc_mean"] > by_name["control:view"]["pr_auc_mean"]
    assert by_name[PRETRAINED]["mcc_mean"] > 0
    held = invoke("doctor", "--json", env=env).answer["workspace"]
    assert (held["cohorts"], held["features"], held["records"]) == (["phantom"], [PRETRAINED], 10)
