"""Weights other than the published ones: untrained, or of a file; and what published ones leave behind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from extraction_kit import TINY, TinyLoader, by_image, images_of, run, saved_weights, stores_of
from safetensors.torch import save_file
from typer.testing import CliRunner

from cli.main import app
from peftbench.backbones import golden
from peftbench.backbones.golden import GOLDEN_FILE
from peftbench.backbones.loading import library_versions, load_encoder
from peftbench.backbones.registry import parse_backbone
from peftbench.extraction import extract as module
from peftbench.extraction.extract import extract
from peftbench.protocol.workspace import Workspace
from stores.keys import file_digest

pytestmark = pytest.mark.slow


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return saved_weights(tmp_path / "elsewhere" / "mine.pt", seed=3)


def tree(place: Workspace) -> set[Path]:
    return {path for path in place.root.rglob("*") if path.is_file()}


def refusal(place: Workspace, backbone: str, *more: str) -> str:
    """The one sentence with which the command line refuses; nothing may be written."""
    before = tree(place)
    words = ["extract", "phantom", "--backbone", backbone, *more, "--device", "cpu", "--workspace", str(place.root)]
    done = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1"}).invoke(app, words)
    assert (done.exit_code, done.stdout) == (2, ""), done.stderr
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
    assert done.stderr.splitlines()[-1] == line
    assert tree(place) == before
    return line


class TestNamedForAll:
    def test_a_seed_is_the_same_however_it_is_said(self, place: Workspace) -> None:
        rows = [run(place, "tiny@random:3"), run(place, "tiny", weights="random:3")]
        assert [row.backbone for row in rows] == ["tiny@random:3"] * 2
        assert rows[0].store == rows[1].store
        assert [row.embedded for row in rows] == [rows[0].total, 0]

    def test_a_file_is_the_same_however_it_is_said(self, place: Workspace, mine: Path) -> None:
        said = [("tiny", f"{mine}"), ("tiny", f"file:{mine}"), (f"tiny@file:{mine}", "")]
        rows = [run(place, backbone, weights=weights) for backbone, weights in said]
        assert {row.backbone for row in rows} == {f"tiny@mine-{file_digest(mine)[:8]}"}
        assert len({row.store for row in rows}) == 1
        assert [row.embedded for row in rows] == [rows[0].total, 0, 0]

    def test_they_are_for_every_backbone_of_the_call(self, place: Workspace) -> None:
        rows = extract("phantom", ["tiny", "vit"], weights="random:1", workspace=place, device="cpu").results
        assert [row.backbone for row in rows] == ["tiny@random:1", "vit@random:1"]


class TestFile:
    def test_its_features_have_a_name_and_a_store_of_their_own(self, place: Workspace, mine: Path) -> None:
        published, own = run(place), run(place, f"tiny@file:{mine}")
        assert own.embedded == own.total
        assert Path(own.store).parent != Path(published.store).parent
        assert Path(own.store).is_relative_to(place.root)
        written = [path for path in tree(place) if path.is_relative_to(own.store)]
        assert not any(b"elsewhere" in str(path).encode() + path.read_bytes() for path in written)
        one, other = by_image(published.store), by_image(own.store)
        assert all((one[image] != other[image]).any() for image in images_of(place))

    def test_the_tensors_are_what_counts(self, place: Workspace, mine: Path, tmp_path: Path) -> None:
        """The weights of a seed, saved: the same features to the bit, under the same recipe."""
        save_file(torch.load(mine), tmp_path / "mine.safetensors")
        saved = [mine, tmp_path / "mine.safetensors"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            torch.save({"state_dict": TinyLoader().build().state_dict()}, tmp_path / "wrapped.ckpt")
        stores = [run(place, f"tiny@file:{path}").store for path in [*saved, tmp_path / "wrapped.ckpt"]]
        stores.append(run(place, "tiny@random:3").store)
        assert len(set(stores)) == 4
        assert len({Path(store).name for store in stores}) == 1
        for store in stores[1:]:
            for image, row in by_image(stores[0]).items():
                np.testing.assert_array_equal(by_image(store)[image], row)

    def test_another_file_of_that_name_is_another_backbone(self, place: Workspace, mine: Path) -> None:
        first = run(place, f"tiny@file:{mine}")
        saved_weights(mine, seed=4)
        second = run(place, f"tiny@file:{mine}")
        assert first.backbone != second.backbone
        assert first.store != second.store

    def test_a_probe_finds_it_by_its_name(self, place: Workspace, mine: Path) -> None:
        row = run(place, f"tiny@file:{mine}")
        mine.unlink()
        words = ["probe", "PHA_icu", "--backbone", row.backbone, "--workspace", str(place.root), "--json"]
        done = CliRunner().invoke(app, [*words, "--no-control"])
        assert done.exit_code == 0, done.stderr
        assert [each["backbone"] for each in json.loads(done.stdout)["results"]] == [row.backbone]

    def test_a_right_digest_is_accepted(self, place: Workspace, mine: Path) -> None:
        digest = file_digest(mine)
        rows = [run(place, f"tiny@file:{mine}#sha256={digest[:length]}") for length in (8, 20, 64)]
        assert [row.reused for row in rows] == [0, rows[0].total, rows[0].total]
        assert run(place, weights=f"{mine}#sha256={digest}").reused == rows[0].total


class TestRefused:
    def test_a_wrong_digest(self, place: Workspace, mine: Path) -> None:
        line = refusal(place, f"tiny@file:{mine}#sha256={'0' * 64}")
        assert f"the SHA-256 of mine.pt starts with {file_digest(mine)}, expected {'0' * 64}" in line

    @pytest.mark.parametrize("words", [["tiny@file:gone.pt"], ["tiny", "--weights", "gone.pt"]])
    def test_a_file_that_is_not_there(self, place: Workspace, words: list[str]) -> None:
        assert "there is no weights file gone.pt" in refusal(place, *words)

    def test_a_checkpoint_of_another_network_names_the_tensors(self, place: Workspace, tmp_path: Path) -> None:
        tensors = torch.load(saved_weights(tmp_path / "whole.pt", seed=0))
        tensors["3.weight"] = torch.zeros(16, 8, 3, 3)
        tensors["9.weight"] = tensors.pop("0.weight")
        torch.save(tensors, tmp_path / "other.pt")
        line = refusal(place, f"tiny@file:{tmp_path / 'other.pt'}")
        assert "do not fit the architecture" in line
        for part in ("missing 0.weight", "unexpected 9.weight", "3.weight is (16, 8, 3, 3), expected (16, 2, 3, 3)"):
            assert part in line

    @pytest.mark.parametrize("content", [b"", b"hello", b"<html>sign in</html>"], ids=["empty", "text", "a web page"])
    def test_what_is_no_checkpoint(self, place: Workspace, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "bad.pt").write_bytes(content)
        assert "bad.pt" in refusal(place, f"tiny@file:{tmp_path / 'bad.pt'}")

    def test_named_twice(self, place: Workspace, mine: Path) -> None:
        assert "name them once" in refusal(place, "tiny@random:0", "--weights", str(mine))

    @pytest.mark.parametrize("weights", ["random:", "random:x", "random:-1", "random:1234567890"])
    def test_a_seed_that_is_none(self, place: Workspace, weights: str) -> None:
        assert "expected tiny@random:SEED" in refusal(place, "tiny", "--weights", weights)

    def test_a_label_alone_cannot_be_embedded_with(self, place: Workspace) -> None:
        assert "name the file: tiny@file:PATH" in refusal(place, "tiny@mine-12345678")

    def test_weights_of_one_backbone_that_do_not_fit_another(self, place: Workspace, mine: Path) -> None:
        assert "vit@mine-" in refusal(place, "vit", "--weights", str(mine))
        assert stores_of(place) == []


class TestRemembered:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
        return tmp_path / "weights"

    def entries(self, folder: Path) -> list[dict[str, object]]:
        return list(json.loads((folder / "tiny" / GOLDEN_FILE).read_text())["entries"])

    def test_published_weights_leave_a_golden_embedding_once(self, place: Workspace, folder: Path) -> None:
        encoder = load_encoder(parse_backbone("tiny"))
        for _ in range(2):
            run(place)
        (entry,) = self.entries(folder)
        assert (entry["weights"], entry["libraries"]) == (encoder.weights_digest, library_versions(TINY))
        np.testing.assert_array_equal(np.array(entry["rows"], dtype=np.float32), golden.golden_rows(encoder))

    def test_other_weights_leave_none(self, place: Workspace, folder: Path, mine: Path) -> None:
        run(place, "tiny@random:0")
        run(place, f"tiny@file:{mine}")
        assert not folder.exists()

    def test_features_that_an_upgrade_changed_are_said(
        self, place: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from progress_kit import Ear

        run(place)
        monkeypatch.setattr(golden, "library_versions", lambda _: {"torch": "99"})
        original = golden.golden_rows
        monkeypatch.setattr(golden, "golden_rows", lambda encoder: original(encoder) * 1.01)
        ear = Ear()
        run(place, progress=ear)
        (note,) = ear.notes
        assert "the features of tiny have changed by up to 1.0e-02" in note
        assert len(self.entries(folder)) == 2

    def test_a_folder_that_cannot_be_written_stops_nobody(
        self, place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "file"))
        assert run(place).embedded == len(images_of(place))

    def test_it_does_not_depend_on_what_is_stored(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before anything is embedded: who is told of a change may still stop."""
        order: list[str] = []
        monkeypatch.setattr(module, "remember", lambda *_: order.append("remembered"))
        original = module.embed_missing
        monkeypatch.setattr(module, "embed_missing", lambda *each: (order.append("embedded"), original(*each))[1])
        run(place)
        assert order == ["remembered", "embedded"]
