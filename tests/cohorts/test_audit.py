"""The audit finds what was planted, says where it leaks, and joins what belongs together."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hannover_kit import Row, write_hannover
from PIL import Image
from scipy.ndimage import zoom
from typer.testing import CliRunner

from cli.main import app
from peftbench.cohorts.asked import task_rows
from peftbench.cohorts.audit import audit
from peftbench.cohorts.prepare import prepare
from peftbench.errors import ConfigError, NotPreparedError, UnknownNameError
from peftbench.imaging.decode import PixelPolicy
from peftbench.protocol import groups
from peftbench.protocol.manifest import Manifest, pseudonym
from peftbench.protocol.splits import Split, find_split, own_path
from peftbench.protocol.workspace import Workspace
from stores.errors import StoreError
from stores.features import FeatureStore
from stores.keys import digest_of
from stores.recipe import FeatureRecipe

pytestmark = pytest.mark.slow

Picture = npt.NDArray[np.uint8]

PATIENTS = 14

TASK = "HAN_icu_all"


def film(seed: int) -> Picture:
    """Something that looks different with each seed, with detail of every size, as in nature."""
    noise = np.random.default_rng(seed)
    layers = [zoom(noise.normal(size=(side, side)), 192 / side, order=3) / side**0.5 for side in (4, 8, 16, 32, 64)]
    total = np.sum(layers, axis=0)
    return ((total - total.min()) / np.ptp(total) * 255).astype(np.uint8)


def resaved(picture: Picture, side: int = 150) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    return np.asarray(Image.open(buffer))


def row(patient: int, image: int) -> Row:
    """The first half of the patients are admitted to intensive care."""
    return Row(f"aa{patient:06d}", f"b{patient:04d}{image:03d}", "0", "1.0" if patient < PATIENTS // 2 else "")


ROWS = [row(patient, image) for patient in range(PATIENTS) for image in range(2)]


def patient(number: int) -> str:
    return pseudonym("hannover", "patient", row(number, 0).patient)


def sample(number: int, image: int) -> str:
    return pseudonym("hannover", "sample", row(number, image).image)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose patients share images: 0 and 5 the same one, 1, 7 and 9 in a chain; 2 has one twice."""
    pictures = {each.image: film(number) for number, each in enumerate(ROWS)}
    named = {(p, i): row(p, i).image for p in range(PATIENTS) for i in range(2)}
    pictures[named[5, 1]] = pictures[named[0, 0]]
    pictures[named[7, 0]] = resaved(pictures[named[1, 1]])
    pictures[named[9, 0]] = np.ascontiguousarray(resaved(pictures[named[7, 1]])[:, ::-1])
    pictures[named[2, 1]] = resaved(pictures[named[2, 0]])
    folder = tmp_path_factory.mktemp("audit")
    raw = write_hannover(folder / "raw", ROWS, pictures)
    prepare("hannover", raw, workspace=folder / "w")
    return folder / "w"


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "w"))


def add_cohort(workspace: Path, raw: Path, name: str, scratch: Path) -> None:
    """A raw folder as a cohort of another name, with pseudonyms of its own, under another pixel policy."""
    policy = PixelPolicy(name="equalize", side=160)
    prepare("hannover", raw, workspace=scratch, policy=policy)
    there, here = Workspace.at(scratch), Workspace.at(workspace)
    frame = Manifest.read("hannover", there.manifest("hannover")).frame
    shutil.copytree(there.cohort("hannover"), here.cohort(name))
    names = {column: [f"{column[0]}-{name}-{digest_of(each)[:6]}" for each in frame[column]]
             for column in ("sample_id", "patient_id")}  # fmt: skip
    Manifest(name, frame.assign(**names)).write(here.manifest(name))


@pytest.fixture(scope="module")
def prepared_with_another(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside the cohort another one, which holds three of its images, re-saved, and ten of its own."""
    folder = tmp_path_factory.mktemp("mixed")
    rows = [row(number, 0) for number in range(13)]
    pictures = {each.image: film(1000 + number) for number, each in enumerate(rows)}
    for number in (3, 4, 6):
        pictures[row(number, 0).image] = resaved(film(2 * number), 130)
    workspace = Path(shutil.copytree(prepared, folder / "w"))
    add_cohort(workspace, write_hannover(folder / "raw", rows, pictures), "other", folder / "scratch")
    return workspace


@pytest.fixture
def mixed(prepared_with_another: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared_with_another, tmp_path / "w"))


PLANTED = {
    ("identical", frozenset({sample(0, 0), sample(5, 1)})),
    ("near", frozenset({sample(1, 1), sample(7, 0)})),
    ("near", frozenset({sample(7, 1), sample(9, 0)})),
}


def test_what_was_planted_is_found_and_nothing_else(workspace: Path) -> None:
    found = audit(TASK, workspace=workspace)
    assert {(pair.kind, frozenset({pair.sample, pair.other_sample})) for pair in found.within} == PLANTED
    assert len(found.within) == len(PLANTED)
    assert found.within_patient == 1
    assert [pair.mirrored for pair in found.within if sample(9, 0) in (pair.sample, pair.other_sample)] == [True]
    assert found.torn == found.across == found.shared == []
    assert (found.images, found.patients, found.units) == (28, 14, 14)
    assert found.frame["kind"].tolist().count("near") == 2


@pytest.mark.parametrize(("split", "seed"), [("5-fold", 0), ("3-fold", 1), ("hold-out", 2)])
def test_folds_are_counted_as_the_split_says(workspace: Path, split: str, seed: int) -> None:
    found = audit(TASK, workspace=workspace, split=split, seed=seed)
    rows = task_rows(TASK, Workspace.at(workspace))
    frame = find_split(rows, split, seed, workspace / "none").frame
    for pair in found.within:
        roles = [frame.loc[frame["sample_id"] == each, "role"].tolist() for each in (pair.sample, pair.other_sample)]
        both = list(zip(*roles, strict=True))
        assert pair.folds_apart == sum(one != other for one, other in both)
        assert pair.folds_leaking == sum(one != other and "test" in (one, other) for one, other in both)
    assert found.leaking == sum(bool(pair.folds_leaking) for pair in found.within)
    assert found.clean == (not found.leaking)


def test_grouping_joins_what_is_shared_and_then_nothing_leaks(workspace: Path) -> None:
    before = audit(TASK, workspace=workspace)
    assert not before.clean
    found = audit(TASK, workspace=workspace, group=True)
    assert found.clean
    assert (found.grouping.groups, found.grouping.patients, found.grouping.written) == (2, 5, True)
    assert found.units == 14 - 3
    kept = groups.read(Workspace.at(workspace).cohort("hannover"))
    assert kept is not None
    first, second = min(patient(0), patient(5)), min(map(patient, (1, 7, 9)))
    assert kept.members == {patient(n): g for n, g in ((0, first), (5, first), (1, second), (7, second), (9, second))}
    assert kept.about["manifest"] == Manifest.read("hannover", Workspace.at(workspace).manifest("hannover")).digest
    again = audit(TASK, workspace=workspace)
    assert again.clean
    assert all(pair.joined and not pair.folds_apart for pair in again.within)
    assert len(again.within) == len(PLANTED), "they are still listed"
    for seed in range(5):
        assert audit(TASK, workspace=workspace, split="3-fold", seed=seed).clean


def test_grouping_joins_patients_of_the_cohort_beyond_the_task(workspace: Path) -> None:
    found = audit("HAN_icu", workspace=workspace, group=True)
    assert (found.images, found.grouping.patients) == (14, 5)


def test_grouping_can_be_undone(workspace: Path) -> None:
    audit(TASK, workspace=workspace, group=True)
    undone = audit(TASK, workspace=workspace, group=False)
    assert undone.grouping.removed
    assert not undone.clean
    assert undone.units == 14
    assert not audit(TASK, workspace=workspace, group=False).grouping.removed


def test_another_cohort_under_another_policy_reveals_the_shared_images(mixed: Path) -> None:
    found = audit(TASK, workspace=mixed)
    assert {(pair.sample, pair.other_cohort, pair.kind) for pair in found.across} == {
        (sample(number, 0), "other", "near") for number in (3, 4, 6)
    }
    assert all(pair.folds_leaking is None and pair.other_sample.startswith("s-other") for pair in found.across)
    (shared,) = found.shared
    assert (shared.images, shared.near, shared.identical, shared.named) == (3, 3, 0, False)


def test_a_shared_cohort_counts_for_the_verdict_when_it_is_named(mixed: Path) -> None:
    assert audit(TASK, workspace=mixed, group=True).clean
    assert not audit(TASK, workspace=mixed, against="other").clean
    assert not audit(TASK, workspace=mixed, against=["other", "other"]).clean


def test_identical_images_of_two_cohorts_are_identical(workspace: Path) -> None:
    place = Workspace.at(workspace)
    frame = Manifest.read("hannover", place.manifest("hannover")).frame
    shutil.copytree(place.cohort("hannover"), place.cohort("twin"))
    twin = frame.assign(patient_id="p-" + frame["patient_id"], sample_id="s-" + frame["sample_id"])
    Manifest("twin", twin).write(place.manifest("twin"))
    (shared,) = audit("HAN_icu", workspace=workspace).shared
    assert shared.images == 14
    assert shared.identical == 15, "one of the 14 is there under two patients"


def test_refusals_say_what_to_do(workspace: Path) -> None:
    with pytest.raises(ConfigError, match="--against hannover is the task's own cohort"):
        audit(TASK, workspace=workspace, against="hannover")
    with pytest.raises(NotPreparedError, match="peftbench prepare nothere"):
        audit(TASK, workspace=workspace, against="nothere")
    with pytest.raises(NotPreparedError, match="peftbench extract hannover --backbone resnet50"):
        audit(TASK, workspace=workspace, backbone="resnet50")
    with pytest.raises(UnknownNameError):
        audit("HAN_nothing", workspace=workspace)


def test_a_damaged_cohort_that_nobody_named_is_passed_over(mixed: Path) -> None:
    Workspace.at(mixed).manifest("other").write_bytes(b"rubbish")
    assert audit(TASK, workspace=mixed).shared == []
    with pytest.raises(NotPreparedError, match="damaged"):
        audit(TASK, workspace=mixed, against="other")


def test_a_missing_picture_is_refused(workspace: Path) -> None:
    place = Workspace.at(workspace)
    frame = Manifest.read("hannover", place.manifest("hannover")).frame
    Manifest("hannover", frame.assign(image_digest=["0" * 64, *frame["image_digest"][1:]])).write(
        place.manifest("hannover")
    )
    with pytest.raises(StoreError, match="prepare"):
        audit(TASK, workspace=workspace)


def test_an_imported_split_that_breaks_the_law_is_shown_for_what_it_is(workspace: Path) -> None:
    rows = task_rows(TASK, Workspace.at(workspace))
    made = find_split(rows, "3-fold", 0, workspace / "none")
    frame = made.frame.copy()
    position = int(np.flatnonzero((frame["role"] == "test") & (frame["sample_id"] == sample(3, 0)))[0])
    frame.loc[position, "role"] = "train"
    folder = Workspace.at(workspace).splits(TASK)
    folder.mkdir(parents=True)
    Split(TASK, "mine", 0, 3, frame, rows_digest=rows.digest).write(own_path("mine", folder))
    found = audit(TASK, workspace=workspace, split="mine")
    (torn,) = found.torn
    assert (torn.unit, torn.roles) == (patient(3), ["test", "train"])
    assert not found.clean


def store_features(workspace: Path, backbone: str, matrix: Callable[[Sequence[str]], npt.NDArray[np.floating]]) -> None:
    place = Workspace.at(workspace)
    images = sorted(set(Manifest.read("hannover", place.manifest("hannover")).frame["image_digest"]))
    recipe = FeatureRecipe(
        architecture="timm:toy", weights="0" * 64, transform="resize(8,bicubic,antialias)",
        outputs={"embedding": "last|avgpool"}, dtype="float32", precision="fp32", device="cpu", batch_size=8,
        libraries={},
    )  # fmt: skip
    folder = place.features(backbone, recipe.key)
    folder.parent.mkdir(parents=True)
    rows = matrix(images)
    FeatureStore.create(folder, recipe, {"embedding": rows.shape[1:]}).append(images, {"embedding": rows})


def test_features_suspect_what_pixels_do_not(workspace: Path) -> None:
    frame = Manifest.read("hannover", Workspace.at(workspace).manifest("hannover")).frame
    by_sample = dict(zip(frame["sample_id"], frame["image_digest"], strict=True))
    planted = by_sample[sample(3, 0)], by_sample[sample(11, 1)]

    def matrix(images: Sequence[str]) -> npt.NDArray[np.floating]:
        rows = np.random.default_rng(0).normal(size=(len(images), 64)) + 5
        rows[images.index(planted[0])] = rows[images.index(planted[1])] + 0.01
        return rows

    store_features(workspace, "toy", matrix)
    found = audit(TASK, workspace=workspace)
    assert found.backbones == {"hannover": "toy"}
    (hint,) = [pair for pair in found.within if pair.kind == "features"]
    assert {hint.sample, hint.other_sample} == {sample(3, 0), sample(11, 1)}
    assert audit(TASK, workspace=workspace, group=True).clean, "a suspicion alone is no leak"
    assert audit(TASK, workspace=workspace, group=True, trust_features=True).grouping.patients == 7
    assert audit(TASK, workspace=workspace, backbone="toy").backbones == {"hannover": "toy"}


def test_features_of_untrained_weights_are_asked_only_by_name(workspace: Path) -> None:
    store_features(workspace, "toy@random:0", lambda images: np.eye(len(images), 32) + 1)
    assert audit(TASK, workspace=workspace).backbones == {}
    assert audit(TASK, workspace=workspace, backbone="toy@random:0").backbones == {"hannover": "toy-random-0"}


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["splits", "audit", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_verb_tells_people_and_scripts(mixed: Path) -> None:
    where = ("--workspace", str(mixed))
    code, out, err = run(TASK, *where)
    assert code == 1
    assert sample(0, 0) in out
    assert "leaks: the same patient or image in training and test; join" in err.splitlines()[-1]
    code, out, err = run(TASK, "--group", *where)
    assert code == 0, err
    assert err.splitlines()[-1] == f"{TASK}: nothing leaks"
    assert "do not train on hannover and test on other" in err
    code, out, err = run(TASK, "--json", "--against", "other", *where)
    answer = json.loads(out)
    assert (code, answer["clean"], len(answer["across"])) == (1, False, 3)
    assert answer["grouping"]["patients"] == 5
    code, out, err = run(TASK, "--against", "nothere", *where)
    assert (code, out) == (2, "")
    code, out, err = run(TASK, "--no-group", *where)
    assert code == 1
    assert "no longer joined" in err


def test_many_lines_are_cut(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The package has the function under the module's name.
    monkeypatch.setattr(sys.modules["cli.splits.audit"], "SHOWN", 2)
    _, out, err = run(TASK, "--workspace", str(mixed))
    assert "and 4 more; --json lists all" in err
    assert out.count("s-") == 2 * 2


def test_nothing_of_the_raw_data_is_written(workspace: Path) -> None:
    audit(TASK, workspace=workspace, group=True)
    table = pd.read_parquet(groups.path_of(Workspace.at(workspace).cohort("hannover")))
    assert table.apply(lambda column: column.str.fullmatch(r"p-[0-9a-f]{12}")).all().all()


def test_hannover_itself_is_clean(hannover_raw: Path, tmp_path: Path) -> None:
    prepare("hannover", hannover_raw, workspace=tmp_path)
    found = audit(TASK, workspace=tmp_path)
    assert found.clean
    assert found.within == []
    assert found.within_patient == 0
