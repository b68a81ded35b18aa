"""`peftbench probe` as it is typed: what it refuses, in one sentence with exit code 2, and what its table shows."""

import numpy as np
import pytest
from probe_kit import BACKBONE, DIM, files, manifest_of, write_features, write_matrix
from typer.testing import CliRunner

from cli.main import app
from peftbench.probing.probe import probe as probe_verb
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.workspace import Workspace
from stores import features

FEW = ("--regime", "few-shot")


def invoke(place: Workspace, *words: str, task: str = "PHA_icu") -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    runner = CliRunner(env={"COLUMNS": "220", "NO_COLOR": "1"})
    done = runner.invoke(app, ["probe", task, *words, "--workspace", str(place.root)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def refused(place: Workspace, *words: str, task: str = "PHA_icu", backbone: str = BACKBONE) -> str:
    """The sentence, after checking that it is one, and that nothing was half-written."""
    before = files(place.root)
    code, stdout, stderr = invoke(place, "--backbone", backbone, *words, task=task)
    assert (code, stdout) == (2, ""), stderr
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line]
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ")
    after = files(place.root)
    assert {path: after[path] for path in before} == before
    assert not [path for path in after if path.endswith(("record.json", "predictions.parquet", ".npz", ".part"))]
    return lines[-1]


def relabel(place: Workspace, **columns: object) -> None:
    frame = manifest_of(place).frame
    Manifest("phantom", frame.assign(**columns)).write(place.manifest("phantom"))


class TestRefusals:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ((*FEW, "--shots", "1"), ["--shots is 1, expected 2 or more"]),
            ((*FEW, "--shots", "0"), ["--shots is 0, expected 2 or more"]),
            ((*FEW, "--shots", "-2"), ["--shots is -2, expected 2 or more"]),
            ((*FEW, "--shots", "a,b"), ["--shots is 'a,b'", "2,4,8"]),
            ((*FEW, "--shots", "2.5"), ["--shots is '2.5'"]),
            ((*FEW, "--shots", ","), ["--shots is empty"]),
            ((*FEW, "--shots", "1000"), ["fold '0' has", "with the event in training, 1000 shots"]),
            ((*FEW, "--draws", "0"), ["--draws is 0, expected 1 or more"]),
            ((*FEW, "--shots", "2", "--draws", "99999999"), ["distinct support sets", "--draws"]),
            (("--shots", "2"), ["--regime few-shot"]),
            (("--draws", "5"), ["--regime few-shot"]),
            (("--choose-on", "support"), ["--regime few-shot"]),
            (("--regime", "few_shot"), ["unknown regime 'few_shot': did you mean few-shot"]),
            (("--regime", "reduced", "--shots", "9999"), ["9999 are asked for: expected 2 to"]),
            (("--regime", "center-few-shot", "--shots", "64"), ["from centre", "64 shots"]),
            ((*FEW, "--with", "clinical"), ["--with clinical needs the whole training part"]),
            (("--with", "clinical"), ["'phantom' declares no clinical variables", "--clinical NAME"]),
            (("--with", "age"), ["--with is 'age', expected clinical"]),
            (("--probe", "logistik"), ["unknown probe 'logistik': did you mean logistic", "peftbench list probes"]),
            (("--probe", "control:view"), ["control"]),
            (("--reading", "embeding"), ["unknown reading 'embeding': did you mean embedding"]),
            (("--reading", "blocks"), ["needs the outputs block_cls or stages", "--reading embedding"]),
            (("--choose-by", "auc"), ["--choose-by is 'auc', expected log-loss or mcc"]),
            (("--choose-on", "test"), ["--choose-on is 'test', expected validation or support"]),
            (("--class-weight", "equal"), ["--class-weight is 'equal', expected balanced or none"]),
            (("--calibrate", "platt"), ["--calibrate is 'platt', expected none or temperature"]),
            (("--permutations", "-1"), ["--permutations is -1"]),
            (("--seed", "-1"), ["--seed is -1"]),
            (("--workers", "0"), ["--workers is 0"]),
            (("--fold-models", "best"), ["best"]),
        ],
        ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
    )
    def test_a_wrong_option_is_named(self, three_centers: Workspace, words: tuple[str, ...], told: list[str]) -> None:
        error = refused(three_centers, *words)
        assert [part for part in told if part not in error] == []

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("probe", "told"),
        [
            ("sklearn.svm.SVCC", ["has no 'SVCC'"]),
            ("nosuchpackage.Classifier", ["nosuchpackage"]),
            ("sklearn.svm.SVC(C=)", ["cannot be read", "SVC(C=10"]),
            ("sklearn.svm.SVC(CC=1)", ["CC"]),
            ("sklearn.svm.SVC(C=-1)", ["C"]),
            ("sklearn.decomposition.PCA", ["neither predict_proba nor decision_function"]),
            ("sklearn.svm.SVC(C=__import__('os'))", ["sklearn.svm.SVC"]),
        ],
    )
    def test_so_is_a_classifier_that_cannot_be_had(self, three_centers: Workspace, probe: str, told: list[str]) -> None:
        error = refused(three_centers, "--probe", probe, "--no-control")
        assert [part for part in told if part not in error] == []

    def test_one_centre_is_no_center_few_shot(self, own_place: Workspace) -> None:
        relabel(own_place, center="A")
        assert "has 1 centre (A)" in refused(own_place, "--regime", "center-few-shot")

    def test_features_that_lack_images_name_the_command(self, own_place: Workspace) -> None:
        write_features(own_place, "efficientnet-lite0", share=0.5)
        error = refused(own_place, backbone="efficientnet-lite0")
        assert "`peftbench extract phantom --backbone efficientnet-lite0` again" in error

    def test_features_of_another_pixel_policy_are_those_of_other_images(self, own_place: Workspace) -> None:
        """The cohort was prepared again otherwise: every image has another digest, and none is stored."""
        relabel(own_place, image_digest=[f"{row:064x}" for row in range(len(manifest_of(own_place).frame))])
        error = refused(own_place)
        assert f"`peftbench extract phantom --backbone {BACKBONE}`" in error

    def test_no_number_in_the_store_is_not_probed(self, own_place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        matrix = np.zeros((len(manifest_of(own_place).frame), DIM))
        matrix[3, 2] = np.nan
        monkeypatch.setattr(features, "not_finite", lambda _: np.empty(0, dtype=np.int64))
        write_matrix(own_place, "efficientnet-lite0", matrix)
        error = refused(own_place, "--no-control", task="PHA_icu_all", backbone="efficientnet-lite0")
        assert "1 of" in error
        assert "peftbench store verify --deep" in error

    @pytest.mark.parametrize("words", [(), FEW, ("--regime", "reduced", "--shots", "4")], ids=" ".join)
    @pytest.mark.parametrize("label", ["yes", "no"])
    def test_one_class_only_is_refused(self, own_place: Workspace, label: str, words: tuple[str, ...]) -> None:
        relabel(own_place, icu=label)
        assert "PHA_icu: " in refused(own_place, *words)

    def test_a_task_with_one_event_cannot_be_divided(self, own_place: Workspace) -> None:
        first = manifest_of(own_place).frame["patient_id"].iloc[0]
        relabel(own_place, icu=np.where(manifest_of(own_place).frame["patient_id"] == first, "yes", "no"))
        assert "1 of 40 patients" in refused(own_place)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("words", [(), (*FEW, "--shots", "2", "--draws", "3"), ("--calibrate", "temperature")])
@pytest.mark.parametrize("probe", ["logistic", "ridge", "knn", "centroid"])
def test_constant_features_are_worth_nothing_and_no_fault(
    own_place: Workspace, words: tuple[str, ...], probe: str
) -> None:
    write_matrix(own_place, "efficientnet-lite0", np.full((len(manifest_of(own_place).frame), DIM), 3.7))
    given = ("--backbone", "efficientnet-lite0", "--no-control", "--probe", probe, *words)
    code, stdout, stderr = invoke(own_place, *given)
    assert (code, [line for line in stderr.splitlines() if "arning" in line]) == (0, [])
    assert " 0.00 ± 0.00 " in stdout


class TestTable:
    @pytest.mark.slow
    def test_over_draws_it_shows_the_spread_and_the_worst_tenth(self, own_place: Workspace) -> None:
        code, stdout, stderr = invoke(own_place, "--backbone", BACKBONE, *FEW, "--shots", "2,4", "--draws", "3")
        assert code == 0, stderr
        header = next(line for line in stdout.splitlines() if "task" in line)
        for column in ("shots", "5-95 % of draws", "worst tenth", "PR-AUC", "prevalence", "gain"):
            assert column in header
        rows = [line for line in stdout.splitlines() if BACKBONE in line]
        assert [line.split()[4] for line in rows] == ["2", "4"]
        assert all(" to " in line for line in rows)

    @pytest.mark.slow
    def test_of_the_whole_training_part_it_shows_neither(self, own_place: Workspace) -> None:
        code, stdout, _ = invoke(own_place, "--backbone", BACKBONE)
        assert code == 0
        assert "worst tenth" not in stdout
        assert "control:metadata" in stdout

    def test_without_controls_it_says_so(self, own_place: Workspace) -> None:
        _, stdout, stderr = invoke(own_place, "--backbone", BACKBONE, "--no-control")
        assert "no control was run" in stdout + stderr


def test_an_option_that_does_not_exist_is_not_passed_over() -> None:
    with pytest.raises(TypeError, match=r"probe has no option 'regim': it takes probe, regime, shots"):
        probe_verb("PHA_icu", regim="few-shot")  # type: ignore[call-arg]
