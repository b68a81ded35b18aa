"""What the user can mend is one sentence on stderr and exit code 2; a traceback is there for who asks."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_kit import BACKBONE, PATIENTS, Done, faults, files, invoke, rows_of, run

from peftbench.cohorts import prepare as prepare_module
from peftbench.errors import UnknownNameError
from peftbench.extraction import embed
from peftbench.protocol import manifest as manifest_module
from stores import commit as commit_module
from stores import rows as rows_module
from stores.features import FeatureStore


@pytest.fixture
def prepared(answers: dict[str, Done], workspace: Path, tmp_path: Path) -> Path:
    """A workspace of its own in which the phantom is prepared and nothing else."""
    assert answers["prepare"].code == 0
    shutil.copytree(workspace / "cohorts", tmp_path / "prepared" / "cohorts")
    return tmp_path / "prepared"


class TestErrors:
    @pytest.mark.parametrize(
        ("words", "parts"),
        [
            (["prepare", "fantom"], ["unknown cohort 'fantom'", "did you mean phantom", "peftbench list cohorts"]),
            (["prepare", "hannover"], ["'hannover' needs --raw DIR"]),
            (["prepare", "hannover", "--raw", "gone"], ["gone does not exist", "--raw DIR"]),
            (["prepare", "phantom", "--raw", "."], ["has no phantom.csv"]),
            (["extract", "phantom", "--backbone", BACKBONE], ["not prepared", "peftbench prepare phantom"]),
            (["extract", "phantom", "--backbone", "resnet81"], ["unknown backbone", "did you mean resnet18"]),
            (["extract", "phantom", "--backbone", "resnet18@imagenet"], ["expected resnet18@random:SEED"]),
            (["extract", "phantom", "--backbone", "resnet18@file:gone.pt"], ["there is no weights file gone.pt"]),
            (["extract", "phantom", "--backbone", BACKBONE, "--device", "gpu"], ["unknown device 'gpu'"]),
            (["extract", "phantom", "--backbone", BACKBONE, "--precision", "fp8"], ["unknown precision 'fp8'"]),
            (["extract", "phantom", "--backbone", BACKBONE, "--batch-size", "0"], ["--batch-size is 0"]),
            (["extract", "phantom", "--backbone", BACKBONE, "--device", "cpu,tpu"], ["unknown device 'tpu'"]),
            (["extract", "phantom", "--backbone", BACKBONE, "--weights", "random:0"], ["name them once"]),
            (["extract", "phantom", "--backbone", "resnet18", "--weights", "no.pt"], ["no weights file no.pt"]),
            (
                ["list", "backbones", "resnet81"],
                ["unknown backbone", "did you mean resnet18", "peftbench list backbones"],
            ),
            (["probe", "PHA_ICU"], ["unknown task 'PHA_ICU'", "did you mean PHA_icu"]),
            (["probe", "PHA_icu"], ["not prepared", "peftbench prepare phantom"]),
            (["probe", "PHA_icu", "--probe", "svm"], ["unknown probe 'svm'", "rbf-svm", "list probes"]),
            (["probe", "PHA_icu", "--no-control"], ["nothing to probe", "--backbone"]),
        ],
        ids=lambda each: " ".join(each) if len(each) > 1 else None,
    )
    def test_a_wrong_word_is_named_with_the_next_step(self, words: list[str], parts: list[str]) -> None:
        error = invoke(*words).error
        assert [part for part in parts if part not in error] == []

    @pytest.mark.parametrize("verb", ["prepare", "extract", "probe"])
    def test_with_json_an_error_leaves_stdout_empty(self, verb: str) -> None:
        words = {"prepare": ["nosuch"], "extract": ["nosuch", "--backbone", BACKBONE], "probe": ["nosuch"]}[verb]
        assert "unknown" in invoke(verb, *words, "--json").error

    def test_features_that_are_missing(self, prepared: Path) -> None:
        words = ("probe", "PHA_icu", "--backbone", BACKBONE, "--workspace", str(prepared))
        assert f"run `peftbench extract phantom --backbone {BACKBONE}` first" in invoke(*words).error

    def test_weights_that_are_missing(self, prepared: Path, tmp_path: Path) -> None:
        env = {"PEFTBENCH_WEIGHTS": str(tmp_path / "weights"), "PEFTBENCH_OFFLINE": "1"}
        env |= {"TORCH_HOME": str(tmp_path / "torch"), "HF_HOME": str(tmp_path / "hub")}
        error = invoke("extract", "phantom", "--backbone", "resnet18", "--workspace", str(prepared), env=env).error
        for part in ("'resnet18' are not on this machine", "resnet18-f37072fd.pth", "peftbench weights fetch resnet18"):
            assert part in error
        assert not (prepared / "features").exists()

    @pytest.mark.slow
    def test_features_that_are_no_numbers(self, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def overflown(self: embed.Engine, batch: torch.Tensor) -> dict[str, torch.Tensor]:
            shapes = {output.name: output.shape for output in self.card.outputs}
            return {name: torch.full((len(batch), *shape), torch.nan) for name, shape in shapes.items()}

        monkeypatch.setattr(embed.Engine, "forward", overflown)
        words = ("extract", "phantom", "--backbone", BACKBONE, "--workspace", str(prepared))
        error = invoke(*words).error
        assert "NaN" in error
        assert "--precision fp32" in error

    @pytest.mark.parametrize(
        "words",
        [
            ("prepare", "phantom", "--raw", "{raw}"),
            ("extract", "phantom", "--backbone", BACKBONE),
            ("probe", "PHA_icu"),
        ],
        ids=lambda words: words[0],
    )
    def test_a_workspace_below_a_file(self, words: tuple[str, ...], raw: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("kept")
        filled = [word.format(raw=raw) for word in words]
        error = invoke(*filled, "--workspace", str(tmp_path / "file" / "deeper")).error
        assert "workspace" in error
        assert (tmp_path / "file").read_text() == "kept"

    @pytest.mark.parametrize(
        "words",
        [("train",), ("list", "nosuch"), ("extract", "phantom"), ("prepare",), ("probe", "PHA_icu", "--seed", "x")],
    )
    def test_a_wrong_form_is_answered_with_the_usage(self, words: tuple[str, ...]) -> None:
        done = invoke(*words)
        assert done.code == 2
        assert done.stdout == ""
        assert "Usage" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_card_that_is_gone_is_no_defect_of_the_program(self, prepared: Path) -> None:
        (prepared / "cohorts" / "phantom" / "card.json").unlink()
        words = ("extract", "phantom", "--backbone", BACKBONE, "--workspace", str(prepared))
        assert "peftbench prepare phantom" in invoke(*words).error

    def test_a_manifest_that_is_damaged_is_no_defect_of_the_program(self, prepared: Path) -> None:
        path = prepared / "cohorts" / "phantom" / "manifest.parquet"
        path.write_bytes(path.read_bytes()[:-100])
        assert "peftbench prepare phantom" in invoke("probe", "PHA_icu", "--workspace", str(prepared)).error


class TestDebug:
    def test_within_the_process_the_error_itself_comes_through(self) -> None:
        done = invoke("prepare", "fantom", "--debug")
        assert isinstance(done.exception, UnknownNameError)

    @pytest.mark.slow
    def test_a_process_of_its_own_shows_the_traceback(self, tmp_path: Path) -> None:
        done = run("prepare", "fantom", "--debug")
        assert done.code != 0
        assert "Traceback (most recent call last)" in done.stderr
        assert "UnknownNameError: unknown cohort 'fantom'" in done.stderr
        assert done.stdout == ""

    def test_without_it_a_process_of_its_own_says_one_sentence(self) -> None:
        assert "did you mean phantom" in run("prepare", "fantom").error

    def test_a_defect_of_the_program_is_shown_whole(self, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A bug must not be dressed up as the user's mistake."""

        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(prepare_module, "cohort_card", broken)
        done = invoke("prepare", "phantom", "--raw", str(raw))
        assert isinstance(done.exception, ZeroDivisionError)
        assert done.code == 1


class TestWorkspace:
    def test_the_environment_names_it(self, raw: Path, tmp_path: Path) -> None:
        env = {"PEFTBENCH_WORKSPACE": str(tmp_path / "named")}
        assert invoke("prepare", "phantom", "--raw", str(raw), env=env).code == 0
        assert (tmp_path / "named" / "cohorts" / "phantom" / "manifest.parquet").is_file()

    def test_the_option_is_stronger(self, raw: Path, tmp_path: Path) -> None:
        env = {"PEFTBENCH_WORKSPACE": str(tmp_path / "named")}
        words = ("prepare", "phantom", "--raw", str(raw), "--workspace", str(tmp_path / "optional"))
        assert invoke(*words, env=env).code == 0
        assert (tmp_path / "optional" / "cohorts").is_dir()
        assert not (tmp_path / "named").exists()

    def test_by_default_it_is_beside_the_caller(self, raw: Path, tmp_path: Path) -> None:
        assert invoke("prepare", "phantom", "--raw", str(raw)).code == 0
        assert (tmp_path / "workspace" / "cohorts").is_dir()


def full(path: Path, _: bytes | str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


@pytest.mark.slow
class TestFullDisk:
    """Every small file is written by one function; here the disk is full when it is asked."""

    @pytest.mark.parametrize(
        "module",
        [rows_module, commit_module, prepare_module, manifest_module],
        ids=lambda each: each.__name__,
    )
    def test_preparing_ends_in_one_sentence_and_can_be_done_again(
        self, raw: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: object
    ) -> None:
        monkeypatch.setattr(module, "write_atomic", full)
        error = invoke("prepare", "phantom", "--raw", str(raw)).error
        assert "no space left at" in error
        assert "run the same command again" in error
        assert not (tmp_path / "workspace" / "cohorts" / "phantom" / "manifest.parquet").exists()
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        assert invoke("prepare", "phantom", "--raw", str(raw), "--json").answer["images"] == PATIENTS

    @pytest.mark.parametrize(
        ("file", "time", "kept"),
        [
            pytest.param("embedding/zarr.json", 0, 0, id="making the store: an array"),
            pytest.param("{store}/zarr.json", 0, 0, id="making the store: the group"),
            pytest.param("{store}/commit.json", 0, 0, id="making the store: the commit record"),
            pytest.param("embedding/c.0.0", 0, 0, id="appending: the rows of one array"),
            pytest.param("image/c.0.0", 0, 0, id="appending: the rows of another"),
            pytest.param("{store}/commit.json", 1, 0, id="appending: the commit record"),
            pytest.param("embedding/zarr.json", 1, PATIENTS, id="after the commit: a shape"),
            pytest.param("{store}/zarr.json", 1, PATIENTS, id="after the commit: the group's shapes"),
        ],
    )
    def test_extracting_ends_in_one_sentence_and_goes_on_when_there_is_space(
        self, prepared: Path, monkeypatch: pytest.MonkeyPatch, file: str, time: int, kept: int
    ) -> None:
        """Whichever file of a store is the first that no longer fits."""
        words = ("extract", "phantom", "--backbone", BACKBONE, "--workspace", str(prepared), "--json")
        seen: list[Path] = []

        def nearly_full(write: Callable[..., None]) -> Callable[..., None]:
            def writing(path: Path, data: Any) -> None:
                (store,) = (prepared / "features" / "resnet18-random-0").iterdir()
                if str(path).endswith("/" + file.format(store=store.name)):
                    seen.append(path)
                if len(seen) > time:
                    full(path, data)
                write(path, data)

            return writing

        with monkeypatch.context() as patch:
            for module, name in (
                (rows_module, "write_atomic"),
                (rows_module, "write_parts"),
                (commit_module, "write_atomic"),
            ):
                patch.setattr(module, name, nearly_full(getattr(module, name)))
            assert "no space left" in invoke(*words).error
        assert len(seen) > time
        (row,) = rows_of(invoke(*words))
        assert (row["reused"], row["embedded"]) == (kept, PATIENTS - kept)
        assert len(FeatureStore.open(Path(row["store"]))) == PATIENTS
        assert faults(Path(row["store"])) == []

    def test_probing_ends_in_one_sentence_and_leaves_no_record(
        self, prepared: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from peftbench.protocol import records

        monkeypatch.setattr(records, "write_atomic", full)
        assert "no space left" in invoke("probe", "PHA_icu", "--workspace", str(prepared)).error
        assert not [name for name in files(prepared) if name.endswith("record.json")]

    @pytest.mark.parametrize(
        ("number", "part"),
        [
            (errno.EDQUOT, "no space left"),
            (errno.EACCES, "no permission for"),
            (errno.EROFS, "the system refuses"),
            (errno.EIO, "the disk says no"),
        ],
    )
    def test_other_troubles_of_a_disk_have_their_sentence(
        self, raw: Path, monkeypatch: pytest.MonkeyPatch, number: int, part: str
    ) -> None:
        def refuse(path: Path, data: bytes | str) -> None:
            raise OSError(number, "the disk says no", str(path))

        monkeypatch.setattr(manifest_module, "write_atomic", refuse)
        error = invoke("prepare", "phantom", "--raw", str(raw)).error
        assert part in error
        assert "manifest.parquet" in error
