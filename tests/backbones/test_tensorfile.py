"""What a safetensors file says of itself: the same as the library, and nothing of what is wrong is believed."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from weights_kit import tensors

from peftbench.backbones.tensorfile import is_own, looks_like_safetensors, not_finite, read_header


def raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_it_says_what_the_library_wrote(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "x", metadata={"peftbench": "{}"})
    header = read_header(tmp_path / "x")
    assert {name: each.shape for name, each in header.tensors.items()} == {
        name: tuple(each.shape) for name, each in tensors().items()
    }
    assert looks_like_safetensors(tmp_path / "x")
    assert is_own(tmp_path / "x")
    save_file(tensors(), tmp_path / "y")
    assert not is_own(tmp_path / "y")
    assert not is_own(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (b"{", b"", "cannot be read"),
        (b"[]", b"", "cannot be read"),
        ({"a": 3}, b"", "cannot be read"),
        ({"a": entry("F31")}, b"1234", "F31"),
        ({"a": entry(shape=(2,))}, b"1234", "does not fit"),
        ({"a": entry(shape=(-1, -1))}, b"1234", "does not fit"),
        ({"a": entry()}, b"123", "expected"),
        ({"a": entry()}, b"12345", "expected"),
        ({"a": entry(offsets=(4, 8))}, b"12345678", "begins at byte"),
        ({"a": entry(), "b": entry()}, b"1234", "begins at byte"),
        (b"[" * 100_000, b"", "cannot be read"),
    ],
)
def test_what_is_wrong_with_it_is_said(tmp_path: Path, header: object, data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_header(raw(tmp_path / "x", header, data))


@pytest.mark.parametrize("data", [b"", b"123", struct.pack("<Q", 10**12) + b"{", struct.pack("<Q", 9) + b"{}"])
def test_a_length_that_cannot_be(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match="header should have"):
        read_header(tmp_path / "x")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(values=st.lists(st.sampled_from([0.0, -1.5, 3e4, float("inf"), -float("inf"), float("nan")]), max_size=20))
def test_what_is_not_finite_is_counted_as_torch_counts(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, values: list[float]
) -> None:
    path = tmp_path_factory.mktemp("finite") / "x"
    tensor = torch.tensor(values, dtype=dtype)
    save_file({"a": tensor}, path)
    assert not_finite(path, read_header(path).tensors["a"]) == int((~torch.isfinite(tensor)).sum())


def test_the_largest_numbers_are_finite_and_integers_always(tmp_path: Path) -> None:
    ends = {}
    for dtype in (torch.float32, torch.bfloat16):
        facts = torch.finfo(dtype)
        ends[str(dtype)] = torch.tensor([facts.max, facts.min, facts.tiny]).to(dtype)
    save_file({**ends, "count": torch.tensor([-1])}, tmp_path / "x")
    for each in read_header(tmp_path / "x").tensors.values():
        assert not_finite(tmp_path / "x", each) == 0
