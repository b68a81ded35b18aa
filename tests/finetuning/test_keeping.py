"""Checkpoints: what was written is what is read, or nothing is."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from finetune_kit import WORDS, Shown, adaptation_of, assert_same_tensors, bench_of, encoder_of, settings

from peftbench.errors import RecordError
from peftbench.finetuning.keeping import read_checkpoint, write_checkpoint

ABOUT: dict[str, Any] = {"strategy": "LoRA", "rank": 2, "fold": 0, "note": "Größe", "nothing": None, "list": [1, 2.5]}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "head.weight": torch.randn((2, 5), generator=generator),
        "layer.weight": torch.randn((3, 4), generator=generator).t(),
        "norm.num_batches_tracked": torch.tensor(7),
        "half": torch.randn(3, generator=generator).to(torch.bfloat16),
    }


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "fold-0.safetensors"
    expected = {name: each.contiguous() for name, each in tensors().items()}
    digest = write_checkpoint(path, expected, ABOUT)
    found, about = read_checkpoint(path, digest)
    assert_same_tensors(found, expected)
    assert {name: each.dtype for name, each in found.items()} == {name: each.dtype for name, each in expected.items()}
    assert about == ABOUT


def test_the_digest_is_that_of_the_file_and_the_same_every_time(tmp_path: Path) -> None:
    held = {name: each.contiguous() for name, each in tensors().items()}
    first = write_checkpoint(tmp_path / "a.safetensors", held, ABOUT)
    second = write_checkpoint(tmp_path / "b.safetensors", dict(reversed(held.items())), ABOUT)
    assert first == second == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    assert write_checkpoint(tmp_path / "c.safetensors", held, {**ABOUT, "fold": 1}) != first


def test_the_header_is_readable_without_this_package(tmp_path: Path) -> None:
    path = tmp_path / "fold-0.safetensors"
    write_checkpoint(path, {"head.bias": torch.zeros(2)}, {"fold": 3})
    with safetensors.safe_open(path, framework="numpy") as held:
        assert held.metadata() == {"peftbench": '{"fold":3}'}
        assert list(held.keys()) == ["head.bias"]


@pytest.mark.parametrize("strategy", ["LP", "FFT", "LoRA", "VeRA", "BitFit", "IA3"])
def test_of_every_strategy_what_learnt_is_in_it_and_no_more(shown: Shown, tmp_path: Path, strategy: str) -> None:
    classifier = bench_of("swin", shown).classifier(adaptation_of(strategy), settings(), WORDS, 1)
    path = tmp_path / "fold-0.safetensors"
    digest = write_checkpoint(path, classifier.learnt(0), {})
    learning = sum(each.numel() for each in classifier.parameters() if each.requires_grad)
    found, _ = read_checkpoint(path, digest)
    assert sum(each.numel() for each in found.values()) == learning
    whole = sum(each.numel() for each in encoder_of("swin").module.parameters())
    assert (learning >= whole) == (strategy == "FFT")


@pytest.mark.parametrize("at", [0, 9, 200, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, at: int) -> None:
    path = tmp_path / "fold-0.safetensors"
    digest = write_checkpoint(path, {"head.weight": torch.ones(64)}, ABOUT)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RecordError, match=r"fold-0.safetensors is damaged.*--force") as caught:
        read_checkpoint(path, digest)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fold-0.safetensors"
    digest = write_checkpoint(path, {"head.weight": torch.ones(64)}, ABOUT)
    path.write_bytes(content)
    with pytest.raises(RecordError, match="damaged, or another one"):
        read_checkpoint(path, digest)


def test_another_checkpoint_than_the_record_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fold-0.safetensors"
    digest = write_checkpoint(path, {"head.weight": torch.ones(64)}, ABOUT)
    write_checkpoint(path, {"head.weight": torch.zeros(64)}, ABOUT)
    with pytest.raises(RecordError, match="another one than the record names"):
        read_checkpoint(path, digest)


def test_a_checkpoint_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"is missing: run `peftbench finetune"):
        read_checkpoint(tmp_path / "fold-0.safetensors", "0" * 64)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fold-0.safetensors"
    digest = write_checkpoint(path, {"head.weight": torch.ones(64)}, ABOUT)

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, {"head.weight": torch.zeros(64)}, ABOUT)
    assert torch.equal(read_checkpoint(path, digest)[0]["head.weight"], torch.ones(64))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
