"""A small phantom as a user has it on disk, and a workspace that all verbs have run in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli_kit import BACKBONE, PATIENTS, Done, invoke

from peftbench.cohorts.synthesis import PhantomConfig, write_phantom


@pytest.fixture(autouse=True, scope="package")
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No workspace is named by the environment, and a forgotten one falls into the test's own folder."""
    monkeypatch.delenv("PEFTBENCH_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="package")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some patients with one picture of 64 pixels each."""
    config = PhantomConfig(patients=PATIENTS, images_per_patient=1, size=64, seed=1)
    return write_phantom(tmp_path_factory.mktemp("raw") / "phantom", config)


@pytest.fixture(scope="package")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "workspace"


@pytest.fixture(scope="package")
def answers(raw: Path, workspace: Path) -> dict[str, Done]:
    """What each verb said on its first run in the workspace, asked for JSON."""
    place = ("--workspace", str(workspace), "--json")
    return {
        "prepare": invoke("prepare", "phantom", "--raw", str(raw), *place),
        "extract": invoke("extract", "phantom", "--backbone", BACKBONE, *place),
        "probe": invoke("probe", "PHA_icu", "--backbone", BACKBONE, *place),
    }
