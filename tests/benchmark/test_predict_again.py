"""What a record holds is what its models say again: probes are fitted anew, fine-tuned models come from checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predict_kit import BACKBONE, Made, assert_as_recorded, probed, recorded, scores_of, tuned

from peftbench.extraction.extract import extract
from peftbench.protocol.records import read_record

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("vit")]


class TestProbes:
    def test_every_fold_says_of_its_test_part_what_was_recorded(self, made: Made) -> None:
        found = scores_of(made.probe, made.pictures)
        assert len(found.scores) == read_record(made.probe).config.folds > 1
        for role in ("test", "validation"):
            assert_as_recorded(found, recorded(made.probe, made.place, role))

    @pytest.mark.parametrize(
        "options",
        [
            {"probe": "ridge", "seed": 3},
            {"probe": "knn", "calibrate": "temperature", "choose_by": "mcc", "split": "hold-out"},
            {"reading": "blocks", "class_weight": "none", "permutations": 9},
            {"split": "LOCO"},
            {"regime": "few-shot", "shots": 2, "draws": 3, "split": "3-fold"},
            {"regime": "center-few-shot", "shots": 2, "draws": 2},
            {"regime": "reduced", "shots": 12, "draws": 2, "choose_on": "validation", "probe": "ridge"},
            pytest.param({"probe": "sklearn.svm.SVC(C=3)"}, marks=pytest.mark.slow),
            pytest.param({"probe": "random-forest"}, marks=pytest.mark.slow),
        ],
        ids=lambda options: " ".join(map(str, options.values())),
    )
    def test_whatever_the_options_were(self, own: Made, options: dict[str, Any]) -> None:
        record = probed(own.place, **options)
        found = scores_of(record, *own.some)
        config = read_record(record).config
        assert found.scores.shape == (config.folds * config.draws, len(found.images))
        assert_as_recorded(found, recorded(record, own.place, "test"))

    def test_features_in_half_precision_are_rounded_as_they_were_stored(self, own: Made) -> None:
        (row,) = extract(
            "phantom", BACKBONE, workspace=own.place, device="cpu", precision="fp32", dtype="float16"
        ).results
        record = probed(own.place, features=Path(row.store).name)
        assert record != own.probe
        assert_as_recorded(scores_of(record, *own.some), recorded(record, own.place, "test"))

    def test_an_imported_split(self, own: Made, tmp_path: Path) -> None:
        from peftbench.benchmark.splitting import splits_export, splits_import

        table = tmp_path / "split.csv"
        splits_export("PHA_icu_all", table, split="hold-out", seed=5, workspace=own.place)
        splits_import("PHA_icu_all", table, "mine", workspace=own.place)
        record = probed(own.place, split="mine")
        assert_as_recorded(scores_of(record, *own.some), recorded(record, own.place, "test"))

    def test_a_picture_is_scored_alike_alone_and_among_others(self, made: Made) -> None:
        together = scores_of(made.probe, made.fresh)
        first = together.files[0]
        alone = scores_of(made.probe, first.file.path)
        column = together.images.index(first.image)
        np.testing.assert_allclose(alone.scores[:, 0], together.scores[:, column], atol=1e-6, rtol=0)

    def test_twice_is_the_same_to_the_bit(self, made: Made) -> None:
        one, two = (scores_of(made.probe, made.fresh) for _ in range(2))
        np.testing.assert_array_equal(one.scores, two.scores)


class TestFineTuned:
    def test_every_model_says_of_its_test_part_what_was_recorded(self, made: Made) -> None:
        found = scores_of(made.lora, *made.some)
        assert len(found.scores) == 1
        for role in ("test", "validation"):
            assert_as_recorded(found, recorded(made.lora, made.place, role))

    @pytest.mark.parametrize(
        "options",
        [
            {"strategy": "lp", "split": "3-fold"},
            {"strategy": "lp", "regime": "few-shot", "shots": 2, "draws": 2},
            {"backbone": f"{BACKBONE}@random:4", "rank": 2, "seed": 2},
        ],
        ids=["folds", "draws", "untrained"],
    )
    def test_whatever_the_options_were(self, own: Made, options: dict[str, Any]) -> None:
        record = tuned(own.place, **options)
        found = scores_of(record, *own.some)
        config = read_record(record).config
        assert len(found.scores) == config.folds * config.draws
        assert_as_recorded(found, recorded(record, own.place, "test"))

    def test_twice_is_the_same_to_the_bit(self, made: Made) -> None:
        one, two = (scores_of(made.lora, made.fresh) for _ in range(2))
        np.testing.assert_array_equal(one.scores, two.scores)
