"""Where weights are kept, and when they count."""

import os
from pathlib import Path

import pytest
from progress_kit import Ear

from peftbench.backbones.cache import (
    MODEL_FILE,
    RECORD_FILE,
    WeightsRecord,
    held,
    home_of,
    put_in_place,
    read_record,
    remove_leftovers,
    scratch_of,
    weights_folder,
)
from peftbench.errors import WeightsError, WeightsFolderError
from stores.lock import writer_lock


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def record(size: int = 3, **facts: object) -> WeightsRecord:
    values = {"backbone": "tiny", "source": "x", "file": "x", "revision": "", "source_sha256": "0" * 64,
              "sha256": "1" * 64, "bytes": size, "tensors": 1}  # fmt: skip
    return WeightsRecord(**{**values, **facts})  # type: ignore[arg-type]


def placed(home: Path, data: bytes = b"abc", **facts: object) -> None:
    staged = scratch_of(home) / "staged"
    staged.write_bytes(data)
    put_in_place(home, staged, record(len(data), **facts))


class TestFolder:
    def test_the_environment_names_it(self, folder: Path) -> None:
        assert weights_folder() == folder
        assert home_of("tiny") == folder / "tiny"

    def test_a_home_may_be_meant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PEFTBENCH_WEIGHTS", "~/w")
        assert weights_folder() == Path.home() / "w"

    @pytest.mark.parametrize(
        ("cache", "expected"),
        [("/var/c", "/var/c"), (None, "/home/x/.cache"), ("", "/home/x/.cache"), ("relative", "/home/x/.cache")],
    )
    def test_otherwise_the_users_cache(self, monkeypatch: pytest.MonkeyPatch, cache: str | None, expected: str) -> None:
        monkeypatch.setenv("PEFTBENCH_WEIGHTS", "")
        monkeypatch.setenv("HOME", "/home/x")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if cache is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert weights_folder() == Path(expected) / "peftbench" / "weights"

    @pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", ".import", "a\\b", "x" * 65, "a b"])
    def test_a_name_that_could_lead_elsewhere(self, name: str) -> None:
        with pytest.raises(WeightsError, match="cannot be a folder's"):
            home_of(name)


class TestRecord:
    def test_it_is_what_makes_weights_count(self, folder: Path) -> None:
        assert read_record("tiny") is None
        placed(folder / "tiny")
        assert read_record("tiny") == record()
        (folder / "tiny" / RECORD_FILE).unlink()
        assert read_record("tiny") is None

    def test_without_the_weights_it_is_nothing(self, folder: Path) -> None:
        placed(folder / "tiny")
        (folder / "tiny" / MODEL_FILE).unlink()
        assert read_record("tiny") is None

    def test_weights_of_another_length_are_damaged(self, folder: Path) -> None:
        placed(folder / "tiny")
        (folder / "tiny" / MODEL_FILE).write_bytes(b"ab")
        with pytest.raises(WeightsError, match="2 bytes, expected 3: `peftbench weights fetch tiny --again`"):
            read_record("tiny")

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 2}', "\xff"])
    def test_a_damaged_record_says_how_to_mend_it(self, folder: Path, text: str) -> None:
        placed(folder / "tiny")
        (folder / "tiny" / RECORD_FILE).write_text(text, encoding="latin-1")
        with pytest.raises(WeightsError, match="--again"):
            read_record("tiny")

    def test_anothers_record(self, folder: Path) -> None:
        placed(folder / "tiny", backbone="other")
        with pytest.raises(WeightsError, match="of 'other'"):
            read_record("tiny")

    def test_the_old_record_goes_before_the_old_weights(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        placed(folder / "tiny")

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("peftbench.backbones.cache.write_atomic", fail)
        with pytest.raises(OSError, match="No space"):
            placed(folder / "tiny", b"xyz", sha256="2" * 64)
        assert read_record("tiny") is None, "never new weights beside the old record"


class TestHeld:
    def test_whoever_comes_next_sweeps(self, folder: Path) -> None:
        (scratch_of(folder / "tiny") / "left").write_bytes(b"x")
        with held(folder / "tiny", Ear()):
            assert not (folder / "tiny" / ".scratch").exists()

    def test_waiting_is_said_and_may_be_stopped(self, folder: Path) -> None:
        class Stop(Ear):
            def advance(self, count: int = 1) -> None:
                raise KeyboardInterrupt

        ear = Stop()
        with writer_lock(folder / "tiny"), pytest.raises(KeyboardInterrupt), held(folder / "tiny", ear):
            pass
        assert "the weights folder tiny is being written by process" in ear.notes[0]

    def test_a_full_disk_names_the_folder_and_the_variable(self, folder: Path) -> None:
        with pytest.raises(WeightsFolderError, match=r"No space left.*PEFTBENCH_WEIGHTS"), held(folder, Ear()):
            raise OSError(28, "No space left on device")

    def test_a_file_in_its_place(self, folder: Path) -> None:
        folder.write_bytes(b"")
        with pytest.raises(WeightsFolderError, match="cannot be written"), held(folder / "tiny", Ear()):
            pass

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_no_right_to_write(self, folder: Path) -> None:
        folder.mkdir()
        folder.chmod(0o500)
        with pytest.raises(WeightsFolderError, match="Permission denied"), held(folder / "tiny", Ear()):
            pass


class TestLeftovers:
    def test_a_dead_imports_are_removed(self, folder: Path) -> None:
        (folder / ".import" / "tiny").mkdir(parents=True)
        remove_leftovers()
        assert [path.name for path in (folder / ".import").iterdir()] == ["writer.lock"]

    def test_a_living_imports_are_let_be(self, folder: Path) -> None:
        (folder / ".import" / "tiny").mkdir(parents=True)
        with writer_lock(folder / ".import"):
            remove_leftovers()
            assert (folder / ".import" / "tiny").is_dir()
