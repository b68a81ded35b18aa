"""Golden embeddings beside the weights: recorded once, compared under other versions, and never in anybody's way."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_kit import golden_pixels, tiny

from peftbench.backbones import golden
from peftbench.backbones.golden import TOLERANCE, golden_pictures, golden_rows, remember
from peftbench.backbones.loading import Encoder, tensors_digest
from peftbench.backbones.registry import BackboneSpec

pytestmark = pytest.mark.slow

PICTURES = "84b02a76d570096d17896dbcea5bfef6b1d5b758a44f489aa08423d9fa983f50"
"""SHA-256 of types, extents and values of the golden pictures."""


class Listening:
    """Progress that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, label: str, total: int) -> None: ...

    def advance(self, count: int = 1) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights" / "dinov2-s"


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions of the libraries, to be changed."""
    said = {"torch": "2.6.0", "transformers": "5.0.0"}
    monkeypatch.setattr(golden, "library_versions", lambda card: {name: said[name] for name in card.libraries})
    return said


def encoder(seed: int = 0, name: str = "dinov2-s") -> Encoder:
    backbone = tiny(name)
    module = backbone.module(seed).requires_grad_(requires_grad=False)
    return Encoder(BackboneSpec(name), backbone.card, backbone.loader, module, tensors_digest(module.state_dict()))


def entries(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "golden.json").read_text())["entries"]
    return found


def moved(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """From now on the largest value of the golden rows is another."""

    def other(each: Encoder) -> np.ndarray:
        rows = golden_rows(each).copy()
        rows.flat[np.abs(rows).argmax()] *= 1 + by
        return rows

    monkeypatch.setattr(golden, "golden_rows", other)


class TestPictures:
    def test_they_are_the_same_on_every_machine(self) -> None:
        digest = hashlib.sha256()
        for picture in golden_pictures():
            digest.update(f"{picture.dtype}{picture.shape}".encode() + picture.tobytes())
        assert digest.hexdigest() == PICTURES

    def test_they_are_of_several_extents_and_use_the_greys(self) -> None:
        pictures = golden_pictures()
        assert [picture.shape for picture in pictures] == [(320, 256), (256, 256), (300, 400)]
        assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
        assert all(np.ptp(picture) > 100 and len(np.unique(picture)) > 50 for picture in pictures)

    def test_rows_are_the_embeddings_of_them(self) -> None:
        one = encoder()
        rows = golden_rows(one)
        assert rows.shape == (3, one.card.embedding)
        with torch.inference_mode():
            expected = one.loader.outputs(one.module, golden_pixels(one.card))["embedding"]
        assert np.array_equal(rows, expected.numpy())


class TestRemember:
    def test_the_first_time_records(self, folder: Path, versions: dict[str, str]) -> None:
        one, told = encoder(), Listening()
        remember(one, told)
        (entry,) = entries(folder)
        assert entry["weights"] == one.weights_digest
        assert entry["libraries"] == versions
        assert np.array_equal(np.array(entry["rows"], dtype=np.float32), golden_rows(one))
        assert told.notes == []

    def test_the_second_time_computes_nothing(
        self, folder: Path, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remember(encoder(), Listening())
        before = (folder / "golden.json").read_bytes()

        def computed(_: Encoder) -> np.ndarray:
            raise AssertionError("computed again")

        monkeypatch.setattr(golden, "golden_rows", computed)
        remember(encoder(), Listening())
        assert (folder / "golden.json").read_bytes() == before

    def test_under_another_version_the_same_features_are_passed_over_in_silence(
        self, folder: Path, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remember(encoder(), Listening())
        versions["torch"] = "2.7.0"
        moved(monkeypatch, 0.5 * TOLERANCE)
        told = Listening()
        remember(encoder(), told)
        assert told.notes == []
        assert [each["libraries"]["torch"] for each in entries(folder)] == ["2.6.0", "2.7.0"]

    def test_under_another_version_other_features_are_told_with_what_changed(
        self, folder: Path, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remember(encoder(), Listening())
        versions["transformers"] = "5.1.0"
        moved(monkeypatch, 20 * TOLERANCE)
        told = Listening()
        remember(encoder(), told)
        (note,) = told.notes
        assert "the features of dinov2-s have changed by up to 2.0e-03 of their largest value" in note
        assert "(transformers 5.0.0 to 5.1.0)" in note
        assert "do not compare them" in note
        again = Listening()
        remember(encoder(), again)
        assert again.notes == [], "told once"

    def test_it_is_held_against_the_oldest(
        self, folder: Path, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Small steps must not add up unnoticed."""
        remember(encoder(), Listening())
        notes = []
        for step in range(1, 4):
            versions["torch"] = f"2.7.{step}"
            with monkeypatch.context() as patch:
                moved(patch, 0.6 * step * TOLERANCE)
                told = Listening()
                remember(encoder(), told)
            notes.append(len(told.notes))
        assert notes == [0, 1, 1]

    def test_another_length_is_told(
        self, folder: Path, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remember(encoder(), Listening())
        versions["torch"] = "3.0.0"
        monkeypatch.setattr(golden, "golden_rows", lambda _: np.ones((3, 7), dtype=np.float32))
        told = Listening()
        remember(encoder(), told)
        assert "from 32 to 7 values" in told.notes[0]

    def test_rows_of_other_weights_say_nothing_and_are_left_behind(
        self, folder: Path, versions: dict[str, str]
    ) -> None:
        remember(encoder(), Listening())
        told, other = Listening(), encoder(seed=1)
        versions["torch"] = "2.7.0"
        remember(other, told)
        assert told.notes == []
        assert [each["weights"] for each in entries(folder)] == [other.weights_digest]

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"schema": 1}', b'{"schema": 99, "entries": []}',
            b'{"schema": 1, "entries": 3}', b'{"schema": 1, "entries": [1, null]}',
            b'{"schema": 1, "entries": {"a": 1}}',
            b'{"schema": 1, "entries": [{"weights": "WEIGHTS"}]}',
            b'{"schema": 1, "entries": [{"weights": "WEIGHTS", "libraries": {}}]}',
            b'{"schema": 1, "entries": [{"weights": "WEIGHTS", "libraries": 1, "rows": [[1]], "recorded": "2026"}]}',
            b'{"schema": 1, "entries": [{"weights": "WEIGHTS", "libraries": {}, "rows": [[1], 2], "recorded": "20"}]}',
            b'{"schema": 1, "entries": [{"weights": "WEIGHTS", "libraries": {}, "rows": [[NaN]], "recorded": "2026"}]}',
            b'{"schema": 1, "entries": [{"weights": "WEIGHTS", "libraries": {}, "rows": [[0.0]], "recorded": "2026"}]}',
            b'{"schema": 1, "entries": [{"weights": "WEIGHTS", "libraries": {}, "rows": [[1]], "recorded": 3}]}',
            b'{"schema": 1, "entries": [{"weights": "WEIGHTS", "libraries": {"torch": "\\u001b[2J"}, "rows": [[1]], '
            b'"recorded": "2026"}]}',
            b'{"schema": 1, "entries": [{"weights": "WEIGHTS", "libraries": {"a": 1}, "rows": [[1]], "recorded": ""}]}',
        ],
    )  # fmt: skip
    def test_a_damaged_file_is_begun_anew(self, folder: Path, versions: dict[str, str], content: bytes) -> None:
        one, told = encoder(), Listening()
        folder.mkdir(parents=True)
        (folder / "golden.json").write_bytes(content.replace(b"WEIGHTS", one.weights_digest.encode()))
        remember(one, told)
        assert told.notes == []
        assert [each["weights"] for each in entries(folder)] == [one.weights_digest]

    def test_a_folder_that_cannot_be_written_stops_nobody(
        self, folder: Path, versions: dict[str, str], tmp_path: Path
    ) -> None:
        (tmp_path / "weights").write_text("a file")
        told = Listening()
        remember(encoder(), told)
        assert told.notes == []
        assert (tmp_path / "weights").read_text() == "a file"

    def test_a_folder_in_its_place_stops_nobody(self, folder: Path, versions: dict[str, str]) -> None:
        (folder / "golden.json").mkdir(parents=True)
        remember(encoder(), Listening())
        assert (folder / "golden.json").is_dir()

    @pytest.mark.parametrize("name", ["hf:facebook/dinov2-small", "timm:resnet18", "hf:mine", "hf:../up"])
    def test_a_model_of_the_users_own_has_a_folder_of_its_own(
        self, folder: Path, versions: dict[str, str], name: str
    ) -> None:
        one = encoder()
        named = Encoder(
            one.spec, one.card.model_copy(update={"name": name}), one.loader, one.module, one.weights_digest
        )
        remember(named, Listening())
        (found,) = folder.parent.rglob("golden.json")
        assert found.parent.parent == folder.parent
        assert ":" not in found.parent.name
