"""`peftbench finetune` as it is typed: the object on stdout, the table, the notes, and what it refuses."""

import errno
import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner
from verb_kit import CNN, SETS, TASK, VIT_NAME, WORDS, Trainings, copied, files, lasting, records_in, row_of_call

import peftbench
from cli.main import app
from peftbench.finetuning import memory
from peftbench.protocol.workspace import Workspace
from stores.lock import LOCK_FILE

LP = ("--backbone", CNN, "--strategy", "lp")

RANKED = ("--preset", "quick", "--backbone")


def invoke(place: Workspace, *words: str, task: str = TASK) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    runner = CliRunner(env={"COLUMNS": "220", "NO_COLOR": "1"})
    done = runner.invoke(app, ["finetune", task, *words, "--workspace", str(place.root)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def answered(place: Workspace, *words: str) -> list[dict[str, Any]]:
    """The rows, after checking that the object is alone on stdout."""
    code, stdout, stderr = invoke(place, *words, "--json")
    assert code == 0, stderr
    assert stdout.count("\n") == 1
    rows: list[dict[str, Any]] = json.loads(stdout, parse_constant=pytest.fail)["results"]
    return rows


def refused(place: Workspace, *words: str, task: str = TASK) -> str:
    """The sentence, after checking that it is one, and that nothing that could be taken for a result was written."""
    before = files(place.root)
    code, stdout, stderr = invoke(place, *words, task=task)
    assert (code, stdout) == (2, ""), stderr
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line]
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ")
    written = {path for path in files(place.root) - before if not path.startswith("splits/")}
    assert {Path(path).name for path in written} <= {LOCK_FILE}
    return lines[-1]


class TestAnswer:
    def test_with_json_it_is_what_the_function_answers(self, place: Workspace) -> None:
        (row,) = answered(place, *LP, *WORDS, *SETS)
        told = row_of_call(place)
        assert row == json.loads(json.dumps(type(told).to_json(told)))
        assert (row["strategy"], row["rank"], row["mcc_std"]) == ("LP", None, None)

    @pytest.mark.slow
    def test_options_may_be_repeated(self, place: Workspace) -> None:
        words = ("--backbone", CNN, "--backbone", VIT_NAME, "--strategy", "LORA", "--strategy", "BitFit")
        rows = answered(place, *words, "--rank", "2", "--rank", "4", *WORDS, *SETS)
        found = [(row["backbone"], row["strategy"], row["rank"]) for row in rows]
        each = [("LoRA", 2), ("LoRA", 4), ("BitFit", None)]
        assert found == [(backbone, *cell) for backbone in (CNN, VIT_NAME) for cell in each]

    def test_every_word_reaches_the_function(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        heard: dict[str, Any] = {}

        def finetune(*words: Any, **options: Any) -> None:
            heard.update(options, words=words)
            raise peftbench.PeftbenchError("heard")

        monkeypatch.setattr(importlib.import_module("peftbench.finetuning.finetune"), "finetune", finetune)
        words = (
            "--rank 2 --rank 4 --external HAN_icu --split LOCO --regime few-shot --shots 2,4 --draws 3 --preset quick "
            "--set epochs=5 --set clip=1 --device cuda:1 --precision bf16 --permutations 7 --seed 5 --checkpoints all "
            "--track wandb --force"
        )
        refused(place, *LP, *words.split())
        progress = heard.pop("progress")
        assert {"start", "advance", "status", "note"} <= set(dir(progress))
        assert heard.pop("words") == ([TASK], [CNN], ["lp"])
        assert heard == {
            "workspace": place.root, "rank": [2, 4], "external": "HAN_icu", "split": "LOCO", "regime": "few-shot",
            "shots": [2, 4], "draws": 3, "preset": "quick", "set_": ["epochs=5", "clip=1"], "device": "cuda:1",
            "precision": "bf16", "permutations": 7, "seed": 5, "checkpoints": "all", "track": "wandb", "force": True,
        }  # fmt: skip

    def test_for_people_there_is_a_table_on_stdout_and_the_rest_on_stderr(self, place: Workspace) -> None:
        code, stdout, stderr = invoke(place, *LP, "--strategy", "fft", "--strategy", "lora", *WORDS, *SETS)
        assert code == 0, stderr
        for word in (CNN, "LP", "FFT", "LoRA r8", "hold-out", "learns", "epochs in all", "images/s", "26 (2.23 %)"):
            assert word in stdout
        assert "note:" not in stdout
        assert "note: PHA_icu_all: no control is recorded" in stderr
        assert f"training {CNN} with LoRA r8, fold 0" in stderr
        assert "gain:" not in stderr
        (record,) = [
            line.partition(": ")[2] for line in stderr.splitlines() if line.startswith(f"record of {CNN}, LoRA r8")
        ]
        assert "LoRA-r8" in record
        assert Path(record, "record.json").is_file()

    def test_the_table_has_draws_and_gains_where_there_are_some(self, place: Workspace) -> None:
        few = ("--regime", "few-shot", "--shots", "2")
        peftbench.probe(TASK, workspace=place, split="hold-out", regime="few-shot", shots=2, draws=2)
        code, stdout, stderr = invoke(place, *LP, *WORDS, *SETS, *few, "--draws", "2")
        assert code == 0, stderr
        assert "shots" in stdout
        assert "gain over the strongest control" in stdout
        assert "gain: paired difference in MCC to the strongest control" in stderr

    def test_progress_says_what_is_done(self, place: Workspace) -> None:
        _, _, stderr = invoke(place, "--backbone", CNN, "--strategy", "fft", *WORDS, *SETS)
        lines = stderr.splitlines()
        assert "loading Tiny CNN: 1" in lines
        assert any(
            re.fullmatch(r"epoch 1/2, loss [\d.]+, on validation [\d.]+, MCC .*images/s", line) for line in lines
        )

    def test_help_names_every_option(self) -> None:
        done = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["finetune", "--help"])
        assert done.exit_code == 0
        options = (
            "backbone strategy rank external split regime shots draws preset set device precision permutations seed "
            "checkpoints track force workspace json debug"
        )
        assert [each for each in options.split() if f"--{each}" not in done.stdout] == []


class TestRefusals:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("words", "parts"),
        [
            (["--backbone", CNN, "--strategy", "vera"], ["VeRA does not fit", "choose one of LP, FFT, LoRA"]),
            (["--backbone", "resnet18@random:0", "--strategy", "vera"], ["VeRA does not fit", "'resnet18'"]),
            (["--backbone", CNN, "--strategy", "LORAS"], ["unknown strategy 'LORAS'", "did you mean LoRA"]),
            (["--backbone", "tiny-cmm", "--strategy", "lp"], ["unknown backbone 'tiny-cmm'", "did you mean tiny-cnn"]),
            ([*LP, "--preset", "quik"], ["unknown preset 'quik'", "did you mean quick"]),
            ([*LP, "--preset", "gone.yaml"], ["--preset gone.yaml: there is no such file", "paper or quick"]),
            ([*LP, "--split", "4-folds"], ["4-folds"]),
            ([*LP, "--regime", "fewshot"], ["unknown regime 'fewshot'", "did you mean few-shot"]),
            ([*LP, "--rank", "4"], ["--rank is of LoRA and VeRA", "leave it out"]),
            (["--backbone", CNN, "--strategy", "lora", "--rank", "0"], ["--rank is 0, expected 1 or more"]),
            (
                ["--preset", "quick", "--backbone", CNN, "--strategy", "lora", "--rank", "64"],
                ["LoRA of rank 64 does not fit", "1 to 8"],
            ),
            (
                ["--preset", "quick", "--backbone", VIT_NAME, "--strategy", "vera", "--rank", "33"],
                ["VeRA of rank 33", "1 to 32"],
            ),
            (["--backbone", CNN, "--strategy", "lora"], ["no targets 'paper'", "--set targets=attention"]),
            ([*LP, "--shots", "2"], ["--shots and --draws are for regimes", "add --regime few-shot"]),
            ([*LP, "--draws", "2"], ["--shots and --draws are for regimes"]),
            ([*LP, "--regime", "few-shot", "--draws", "0"], ["--draws is 0, expected 1 or more"]),
            ([*LP, "--regime", "few-shot", "--shots", "0"], ["--shots is 0"]),
            ([*LP, "--regime", "few-shot", "--shots", "two"], ["--shots", "two"]),
            ([*LP, "--regime", "few-shot", "--shots", "99"], ["99 shots are asked for"]),
            ([*LP, "--permutations", "-1"], ["--permutations is -1, expected 0 or more"]),
            ([*LP, "--seed", "-1"], ["--seed is -1, expected 0 or more"]),
            ([*LP, "--checkpoints", "some"], ["--checkpoints is 'some', expected auto, all or none"]),
            ([*LP, "--track", "mlflow"], ["--track is 'mlflow', expected none or wandb"]),
            ([*LP, "--device", "gpu"], ["unknown device 'gpu'"]),
            ([*LP, "--device", "cuda:9"], ["'cuda:9' was asked for", "--device cpu"]),
            ([*LP, "--device", "cpu", "--precision", "fp16"], ["fp16 needs a GPU"]),
            ([*LP, "--precision", "fp8"], ["unknown precision 'fp8'"]),
            ([*LP, "--external", "PHA_icu"], ["of the cohort 'phantom'"]),
            ([*LP, "--external", "PHA"], ["unknown task 'PHA'"]),
            ([*LP, "--external", "HAN_icu", "--regime", "few-shot"], ["leave --regime few-shot out"]),
        ],
        ids=lambda each: " ".join(each[-2:]),
    )
    def test_a_wrong_word_is_named_with_the_next_step(
        self, place: Workspace, words: list[str], parts: list[str]
    ) -> None:
        error = refused(place, *words)
        assert [part for part in parts if part not in error] == []
        assert not place.results.exists()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("setting", "part"),
        [
            ("epochs", "expected key=value"),
            ("=3", "expected key=value"),
            ("epoch=3", "unknown setting 'epoch': did you mean epochs"),
            ("epochs=0", "--set epochs=0: input should be greater than or equal to 1"),
            ("epochs=2.5", "--set epochs=2.5:"),
            ("epochs=many", "--set epochs=many:"),
            ("epochs=none", "--set epochs="),
            ("batch_size=1", "--set batch_size=1:"),
            ("micro_batch=0", "--set micro_batch=0:"),
            ("learning_rate=0", "--set learning_rate=0:"),
            ("learning_rate=nan", "--set learning_rate=nan:"),
            ("weight_decay=inf", "--set weight_decay=inf:"),
            ("clip=inf", "--set clip=inf:"),
            ("min_learning_rate=inf", "--set min_learning_rate=inf:"),
            ("head_learning_rates=nan", "--set head_learning_rates=nan: expected a finite number"),
            ("head_learning_rates=0.1,nan", "expected a finite number"),
            ("head_learning_rates=0.1,0.1", "expected different rates"),
            ("head_learning_rates=0.1,0.10000001", "expected different rates"),
            ("head_learning_rates=-1", "expected different rates"),
            ("schedule=linear", "--set schedule=linear:"),
            ("balance=yes", "--set balance=yes:"),
            ("dropout=1", "--set dropout=1:"),
            ("augmentation=strong", "expected augmentation=none"),
            ("augmentation.flipp=true", "unknown setting 'flipp': did you mean flip"),
            ("epochs.more=1", "'epochs' has no settings of its own"),
        ],
    )
    def test_a_setting_out_of_its_range_is_refused(self, place: Workspace, setting: str, part: str) -> None:
        assert part in refused(place, *LP, "--preset", "quick", "--set", setting)
        assert not place.results.exists()

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("epochs: [", "it cannot be read"),
            ("- epochs", "expected settings as `key: value`, found a list"),
            ("", "expected settings as `key: value`, found nothing"),
            ("epoch: 3", ".yaml: epoch: unknown setting 'epoch': did you mean epochs"),
            ("epochs: 0", "greater than or equal to 1"),
            ("preset: qick", "unknown preset 'qick': did you mean quick"),
            ("preset: [quick]", "unknown preset"),
            ("1: 2", "keys should be strings"),
            ("augmentation: strong", "augmentation"),
            ("augmentation:\n  flipp: true", "unknown setting 'flipp'"),
            (b"\xff\xfe\x00", "it cannot be read"),
        ],
        ids=repr,
    )
    def test_a_damaged_file_of_settings_is_refused(
        self, place: Workspace, tmp_path: Path, text: str | bytes, part: str
    ) -> None:
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        assert part in refused(place, *LP, "--preset", str(path))
        assert not place.results.exists()

    def test_a_task_that_is_not_there(self, place: Workspace) -> None:
        assert "unknown task 'PHA_ICU': did you mean PHA_icu" in refused(place, *LP, task="PHA_ICU")

    def test_a_cohort_that_is_not_prepared(self, tmp_path: Path) -> None:
        error = refused(Workspace(tmp_path / "new"), *LP)
        assert "`peftbench prepare phantom" in error
        assert not (tmp_path / "new").exists()

    def test_a_workspace_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("kept")
        assert "workspace" in refused(Workspace(tmp_path / "file" / "deeper"), *LP)

    def test_weights_that_are_missing(self, place: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("PEFTBENCH_WEIGHTS", "TORCH_HOME", "HF_HOME"):
            monkeypatch.setenv(name, str(tmp_path / name))
        monkeypatch.setenv("PEFTBENCH_OFFLINE", "1")
        error = refused(place, "--backbone", "resnet18", "--strategy", "lp")
        assert "peftbench weights fetch resnet18" in error

    def test_a_gpu_where_there_is_none(self, place: Workspace) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is one")
        assert "there are 0 CUDA devices here" in refused(place, *LP, "--device", "cuda")

    def test_a_rank_that_does_not_fit_the_second_backbone_is_refused_before_the_first_is_trained(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainings = Trainings(monkeypatch)
        words = ("--backbone", VIT_NAME, "--backbone", CNN, "--strategy", "lora", "--rank", "16")
        assert "LoRA of rank 16 does not fit" in refused(place, *words, *WORDS, *SETS)
        assert len(trainings) == 0

    def test_a_function_says_which_option_it_has_not(self, place: Workspace) -> None:
        with pytest.raises(TypeError, match="finetune has no option 'precisoin'"):
            row_of_call(place, precisoin="fp32")


class TestDamagedPictures:
    @pytest.fixture
    def images(self, place: Workspace) -> Path:
        (folder,) = (place.cohort("phantom") / "images").iterdir()
        return folder

    @pytest.mark.parametrize("harm", ["flipped", "chunk gone", "folder gone", "card gone"])
    def test_a_store_that_is_damaged_is_one_sentence(self, place: Workspace, images: Path, harm: str) -> None:
        chunk = max((path for path in images.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        data = bytearray(chunk.read_bytes())
        data[len(data) // 2] ^= 1
        {
            "flipped": lambda: chunk.write_bytes(data),
            "chunk gone": chunk.unlink,
            "folder gone": lambda: shutil.rmtree(images),
            "card gone": place.card("phantom").unlink,
        }[harm]()
        error = refused(place, "--backbone", CNN, "--strategy", "fft", *WORDS, *SETS)
        assert re.search("prepare|verify|repair|damaged", error)
        assert records_in(place) == []


class TestMemory:
    def test_what_does_not_fit_names_a_micro_batch_that_does(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ("--backbone", VIT_NAME, "--strategy", "fft", *WORDS, *SETS)
        monkeypatch.setattr(memory, "free_memory", lambda: 2_000_000)
        error = refused(place, *words)
        assert f"{VIT_NAME} with FFT: a pass of 8 images takes about" in error
        found = re.search(r"--set micro_batch=(\d+)", error)
        assert found is not None
        assert 1 <= int(found[1]) < 8
        assert len(answered(place, *words, "--set", f"micro_batch={found[1]}")) == 1

    def test_where_not_one_image_fits_it_says_what_else_helps(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "free_memory", lambda: 1000)
        error = refused(place, "--backbone", VIT_NAME, "--strategy", "lora", *WORDS, *SETS)
        assert "too few for one image" in error
        assert "--set checkpointing=true" in error

    def test_a_frozen_backbone_needs_no_such_room(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "free_memory", lambda: 1000)
        assert len(answered(place, *LP, *WORDS, *SETS)) == 1

    def test_where_the_system_does_not_say_it_is_tried(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "free_memory", lambda: None)
        assert len(answered(place, "--backbone", CNN, "--strategy", "fft", *WORDS, *SETS)) == 1

    def test_memory_that_ends_all_the_same_is_one_sentence_that_fits_the_verb(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ends(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr("peftbench.finetuning.trainer.Trainer._step", ends)
        error = refused(place, "--backbone", CNN, "--strategy", "fft", *WORDS, *SETS)
        assert "out of memory" in error
        assert "micro_batch" in error, "the verb has no --batch-size"


class TestLoss:
    def test_a_loss_that_is_no_number_is_one_sentence_with_what_to_change(self, place: Workspace) -> None:
        words = ("--set", "learning_rate=10", "--set", "head_learning_rates=10", "--set", "weight_decay=1e38")
        error = refused(place, "--backbone", CNN, "--strategy", "fft", *WORDS, *SETS, *words)
        assert "the training loss is" in error
        assert "--set learning_rate=" in error


def full(path: Path, *_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


class TestFullDisk:
    """Whichever file of a record is the first that no longer fits."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("module", "trained"),
        [
            ("peftbench.finetuning.keeping", 1),
            ("peftbench.protocol.kept", 1),
            ("peftbench.finetuning.runs", 0),
            ("peftbench.protocol.records", 0),
        ],
        ids=["checkpoint", "answer of a fold", "history", "predictions and record"],
    )
    def test_it_ends_in_one_sentence_and_goes_on_when_there_is_space(
        self, place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, trained: int
    ) -> None:
        alone = copied(place, tmp_path / "alone")
        words = ("--backbone", CNN, "--strategy", "fft", *WORDS, *SETS)
        with monkeypatch.context() as patch:
            patch.setattr(importlib.import_module(module), "write_atomic", full)
            code, stdout, stderr = invoke(place, *words, "--json")
            assert (code, stdout) == (2, ""), stderr
            assert "no space left at" in stderr.splitlines()[-1]
            assert "run the same command again" in stderr.splitlines()[-1]
        assert records_in(place) == []
        trainings = Trainings(monkeypatch)
        (row,) = answered(place, *words)
        assert len(trainings) == trained
        assert lasting(row["record"]) == lasting(row_of_call(alone, CNN, "fft").record)
        assert not (Path(row["record"]) / "cells").exists()
