"""Reading checkpoints: every wrapping that is in use, and everything that is refused, in one sentence each."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from weights_kit import noise, same, tensors, tiny_card, torch_bytes, tower_of, zip_bytes

from peftbench.backbones.cache import MODEL_FILE, read_record
from peftbench.backbones.conversion import Original, convert, read_checkpoint, tower
from peftbench.backbones.tensorfile import read_header
from peftbench.errors import WeightsError
from stores.keys import file_digest

pytestmark = pytest.mark.slow

ZIPPED = tiny_card(file="tiny.zip", member="inner.bin")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def written(folder: Path, data: bytes, name: str = "file.pt") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refusal(path: Path, card: Any = None) -> str:
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path, card)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    assert text.count(": ") >= 1, "a next step is named"
    return text


class TestWhatIsRead:
    @pytest.mark.parametrize("wrap", [None, "state_dict", "model", "model_state_dict"])
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_torch_files(self, tmp_path: Path, wrap: str | None, *, zipped: bool) -> None:
        plain = tensors()
        value = {wrap: plain, "epoch": 3} if wrap else plain
        path = written(tmp_path, torch_bytes(value, _use_new_zipfile_serialization=zipped))
        assert same(read_checkpoint(path), plain)

    def test_wrapping_in_wrapping(self, tmp_path: Path) -> None:
        plain = tensors()
        assert same(read_checkpoint(written(tmp_path, torch_bytes({"state_dict": {"model": plain}}))), plain)

    def test_a_tensor_called_model_is_no_wrapping(self, tmp_path: Path) -> None:
        value = {"model": torch.ones(2), "other": torch.ones(1)}
        assert same(read_checkpoint(written(tmp_path, torch_bytes(value))), value)

    def test_safetensors_by_content_whatever_its_name(self, tmp_path: Path) -> None:
        plain = tensors()
        save_file(plain, tmp_path / "weights.bin")
        assert same(read_checkpoint(tmp_path / "weights.bin"), plain)

    def test_module_is_stripped_only_where_all_have_it(self, tmp_path: Path) -> None:
        wrapped = {f"module.{name}": each for name, each in tensors().items()}
        assert same(read_checkpoint(written(tmp_path, torch_bytes(wrapped))), tensors())
        mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
        assert same(read_checkpoint(written(tmp_path, torch_bytes(mixed))), mixed)

    def test_parameters_come_as_tensors(self, tmp_path: Path) -> None:
        path = written(tmp_path, torch_bytes({"a": torch.nn.Parameter(torch.ones(2))}))
        assert not read_checkpoint(path)["a"].requires_grad

    @pytest.mark.parametrize("inner", ["inner.bin", "folder/inner.bin"])
    def test_a_member_of_a_zip(self, tmp_path: Path, inner: str) -> None:
        plain = tensors()
        data = zip_bytes({"readme.txt": b"hello", inner: torch_bytes(plain)})
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        found = read_checkpoint(written(tmp_path, data, "tiny.zip"), ZIPPED, scratch)
        assert same(found, plain)
        assert list(scratch.iterdir()) == []


class Payload:
    """Runs a command when it is unpickled the ordinary way."""

    def __init__(self, target: Path) -> None:
        self.command = f"touch {target}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class TestWhatIsRefused:
    @pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
    def test_code_in_a_pickle_is_not_run(self, tmp_path: Path, how: str) -> None:
        target = tmp_path / "owned"
        value = {"weight": torch.ones(2), "bomb": Payload(target)}
        data = pickle.dumps(value) if how == "pickle" else torch_bytes(
            value, _use_new_zipfile_serialization=how == "torch"
        )  # fmt: skip
        path = written(tmp_path, data)
        text = refusal(path)
        assert not target.exists()
        assert "weights_only refuses it" in text
        assert "safetensors" in text
        if how == "torch":
            torch.load(path, weights_only=False)
            assert target.exists(), "the payload works, and only the reader kept it from running"

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"", "empty (0 bytes)"),
            (b"<!DOCTYPE html><html>login</html>", "web page"),
            (b"\xef\xbb\xbf\n  <html>", "web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
            (noise(300), "no checkpoint"),
            (b"hello", "no checkpoint"),
            (b"\x80\x02", "damaged"),
            (b"PK\x03\x04" + noise(100), "damaged"),
            ((50).to_bytes(8, "little") + b"{" + b"x" * 60, "damaged"),
        ],
        ids=["empty", "html", "bom", "lfs", "noise", "short", "pickle", "zip", "safetensors"],
    )
    def test_what_is_no_checkpoint(self, tmp_path: Path, data: bytes, said: str) -> None:
        assert said in refusal(written(tmp_path, data))

    @pytest.mark.parametrize("size", [0.3, 0.6, 0.95])
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_a_file_that_was_cut_short(self, tmp_path: Path, size: float, *, zipped: bool) -> None:
        data = torch_bytes(tensors(rows=500), _use_new_zipfile_serialization=zipped)
        text = refusal(written(tmp_path, data[: int(len(data) * size)]))
        assert "damaged" in text

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ({}, "holds nothing"),
            ([torch.ones(1)], "a list"),
            (torch.ones(1), "a Tensor"),
            ({"a": torch.ones(1), "epoch": 3}, "'epoch', a int"),
            ({"a": torch.ones(1), 7: torch.ones(1)}, "holds 7"),
            ({"a": torch.ones(2, 2).to_sparse()}, "sparse"),
        ],
    )
    def test_more_or_less_than_tensors(self, tmp_path: Path, value: Any, said: str) -> None:
        assert said in refusal(written(tmp_path, torch_bytes(value)))

    def test_a_torchscript_archive(self, tmp_path: Path) -> None:
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
        assert "TorchScript" in refusal(tmp_path / "script.pt")

    def test_a_zip_without_the_member_names_what_is_there(self, tmp_path: Path) -> None:
        path = written(tmp_path, zip_bytes({"other.bin": b"x", "more.txt": b"y"}), "tiny.zip")
        text = refusal(path, ZIPPED)
        assert "'more.txt', 'other.bin'" in text
        assert "expected 'inner.bin'" in text

    def test_a_zip_for_a_card_that_has_no_member(self, tmp_path: Path) -> None:
        path = written(tmp_path, zip_bytes({"inner.bin": torch_bytes(tensors())}), "tiny.zip")
        assert "expected a checkpoint" in refusal(path, tiny_card())

    def test_a_zip_in_a_zip(self, tmp_path: Path) -> None:
        inner = zip_bytes({"inner.bin": torch_bytes(tensors())})
        path = written(tmp_path, zip_bytes({"inner.bin": inner}), "tiny.zip")
        with pytest.raises(WeightsError, match="expected a checkpoint"):
            read_checkpoint(path, ZIPPED)

    def test_two_members_of_the_name(self, tmp_path: Path) -> None:
        path = written(tmp_path, zip_bytes({"a/inner.bin": b"x", "b/inner.bin": b"y"}), "tiny.zip")
        assert "in it once" in refusal(path, ZIPPED)

    def test_a_zip_bomb(self, tmp_path: Path) -> None:
        path = written(tmp_path, zip_bytes({"inner.bin": b"\0" * 3_000_000}), "tiny.zip")
        assert "200 times" in refusal(path, ZIPPED)

    def test_a_member_that_claims_to_be_huge(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("peftbench.backbones.conversion.LARGEST_MEMBER", 1000)
        path = written(tmp_path, zip_bytes({"inner.bin": noise(1001)}, zipfile.ZIP_STORED), "tiny.zip")
        assert "1001 bytes" in refusal(path, ZIPPED)

    def test_a_member_with_a_flipped_byte(self, tmp_path: Path) -> None:
        data = bytearray(zip_bytes({"inner.bin": torch_bytes(tensors(rows=200))}, zipfile.ZIP_STORED))
        data[len(data) // 2] ^= 1
        assert "damaged" in refusal(written(tmp_path, bytes(data), "tiny.zip"), ZIPPED)

    def test_an_encrypted_member(self, tmp_path: Path) -> None:
        data = bytearray(zip_bytes({"inner.bin": noise(50)}, zipfile.ZIP_STORED))
        central = data.index(b"PK\x01\x02")
        data[6] |= 1
        data[central + 8] |= 1
        assert "encrypted" in refusal(written(tmp_path, bytes(data), "tiny.zip"), ZIPPED)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        assert "No such file" in refusal(tmp_path / "nothing.pt")


class TestTower:
    def test_only_the_tower_and_under_its_own_names(self) -> None:
        every = tensors()
        assert same(tower(every, tiny_card()), tower_of(every))

    def test_another_models_checkpoint_is_refused_with_its_names(self) -> None:
        with pytest.raises(WeightsError, match=r"begins with 'visual.', but 'encoder.weight'"):
            tower({"encoder.weight": torch.ones(1)}, tiny_card())

    def test_a_file_that_the_user_named_may_hold_the_tower_alone(self) -> None:
        own = {"weight": torch.ones(1)}
        assert same(tower(own, tiny_card(), named=True), own)
        assert same(tower(tensors(), tiny_card(), named=True), tower_of(tensors()))


class TestConvert:
    def converted(self, folder: Path, value: Any) -> Path:
        home = folder / "tiny"
        home.mkdir(parents=True, exist_ok=True)
        path = written(home, torch_bytes(value))
        convert(Original(path, "somewhere", file_digest(path), "abc"), tiny_card(), home)
        return home

    def test_the_record_says_what_is_there(self, folder: Path) -> None:
        home = self.converted(folder, tensors())
        record = read_record("tiny")
        assert record is not None
        assert record.sha256 == file_digest(home / MODEL_FILE)
        assert (record.bytes, record.tensors) == ((home / MODEL_FILE).stat().st_size, 3)
        assert (record.source, record.file, record.revision) == ("somewhere", "file.pt", "abc")
        assert record.source_sha256 == file_digest(home / "file.pt")

    def test_dtypes_stay(self, folder: Path) -> None:
        home = self.converted(folder, tensors())
        kinds = {name: entry.dtype for name, entry in read_header(home / MODEL_FILE).tensors.items()}
        assert kinds == {"visual.weight": "F32", "visual.half": "BF16", "visual.count": "I64"}

    def test_the_same_original_gives_the_same_bytes(self, folder: Path) -> None:
        first = (self.converted(folder, tensors()) / MODEL_FILE).read_bytes()
        assert (self.converted(folder, tensors()) / MODEL_FILE).read_bytes() == first

    def test_tied_and_turned_tensors_are_written_out(self, folder: Path) -> None:
        base = torch.arange(12.0).reshape(3, 4)
        value = {"visual.a": base, "visual.b": base, "visual.c": base.t(), "visual.d": base[1:]}
        home = self.converted(folder, value)
        assert same(read_checkpoint(home / MODEL_FILE), value)

    def test_others_may_read_what_the_umask_lets_them(self, folder: Path) -> None:
        home = self.converted(folder, tensors())
        assert (home / MODEL_FILE).stat().st_mode == (home / "file.pt").stat().st_mode

    def test_new_weights_take_the_old_ones_golden_embedding_away(self, folder: Path) -> None:
        home = self.converted(folder, tensors())
        (home / "golden.json").write_text("{}")
        self.converted(folder, tensors())
        assert (home / "golden.json").exists(), "the same weights keep it"
        self.converted(folder, tensors(seed=1))
        assert not (home / "golden.json").exists()
