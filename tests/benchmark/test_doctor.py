"""The doctor: what there is, what is missing, and that looking changes nothing."""

import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from peftbench.backbones.cards import CARDS
from peftbench.benchmark import doctor as module
from peftbench.benchmark.doctor import doctor
from peftbench.cohorts.prepare import prepare
from peftbench.protocol.workspace import Workspace


@pytest.fixture
def base_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the model libraries."""
    original = importlib.util.find_spec
    hidden = {"torch", "torchvision", "timm"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in hidden else original(name, *rest)
    )
    found = module.provenance.versions
    monkeypatch.setattr(
        module.provenance, "versions", lambda names: {k: v for k, v in found(names).items() if k not in hidden}
    )


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


class TestVersions:
    def test_they_are_those_installed(self, tmp_path: Path) -> None:
        versions = doctor(tmp_path).versions
        for name in ("numpy", "zarr", "pandas", "torch", "timm"):
            assert versions[name] == metadata.version(name)
        assert versions["python"] == ".".join(map(str, sys.version_info[:3]))

    def test_what_is_not_installed_is_said_so(self, tmp_path: Path, base_install: None) -> None:
        found = doctor(tmp_path)
        assert found.versions["torch"] is None
        assert found.devices == []
        assert any(
            "no torch here" in each and "pip install 'peftbench[models,offline]'" in each for each in found.advice
        )
        assert not any("weights fetch" in each for each in found.advice), "of no use without the libraries"


class TestMachine:
    def test_the_processor_is_the_first_device(self, tmp_path: Path) -> None:
        first = doctor(tmp_path).devices[0]
        assert first["device"] == "cpu"
        assert first["bf16"] in {True, False}
        assert len(doctor(tmp_path).devices) == 1 + torch.cuda.device_count()

    def test_threads_are_counted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        threads = doctor(tmp_path).threads
        assert threads["processors"] >= 1
        assert threads["OMP_NUM_THREADS"] == "3"


class TestWeights:
    def test_what_a_package_ships_is_here(self, tmp_path: Path) -> None:
        found = doctor(tmp_path).weights["efficientnet-lite0"]
        assert found["present"] is True
        assert Path(found["where"]).is_file()
        assert found["advice"] == ""

    def test_what_must_be_downloaded_is_advised(self, tmp_path: Path, no_hub: Path) -> None:
        found = doctor(tmp_path)
        weights = found.weights["resnet18"]
        assert (weights["present"], weights["where"]) == (False, None)
        assert weights["advice"] == "`peftbench weights fetch resnet18`"
        absent = [name for name, each in found.weights.items() if not each["present"]]
        (advice,) = (each for each in found.advice if "weights fetch" in each)
        assert advice.startswith(f"{len(absent)} of {len(CARDS)} backbones have no pretrained weights here")
        assert set(found.weights) == set(CARDS)

    def test_what_was_downloaded_is_found(self, tmp_path: Path, no_hub: Path) -> None:
        no_hub.mkdir(parents=True)
        (no_hub / "resnet18-f37072fd.pth").touch()
        found = doctor(tmp_path).weights["resnet18"]
        assert (found["present"], found["where"]) == (True, str(no_hub / "resnet18-f37072fd.pth"))


class TestWorkspace:
    def test_an_empty_one_is_advised_how_to_begin(self, tmp_path: Path) -> None:
        found = doctor(tmp_path / "new")
        assert found.workspace["path"] == str(tmp_path / "new")
        assert (found.workspace["cohorts"], found.workspace["features"], found.workspace["records"]) == ([], [], 0)
        assert any("peftbench prepare phantom" in each for each in found.advice)

    @pytest.mark.slow
    def test_looking_leaves_no_file(self, tmp_path: Path, phantom_raw: Path) -> None:
        prepare("phantom", phantom_raw, workspace=tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        found = doctor(tmp_path)
        assert found.workspace["cohorts"] == ["phantom"]
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def test_one_that_cannot_be_written_is_a_finding(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        found = doctor(Workspace(tmp_path / "file" / "deeper"))
        assert found.workspace["writable"] is False
        assert any("cannot be written" in each for each in found.advice)

    def test_the_answer_is_json(self, tmp_path: Path) -> None:
        found = doctor(tmp_path)
        assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()
