"""Digests: one value has one text, one picture one digest."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stores.keys import canonical_json, digest_of, file_digest, pack_digests, pixels_digest, unpack_digests

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shuffled_keys(value: object, seed: int) -> object:
    if isinstance(value, dict):
        items = list(value.items())
        random.Random(seed).shuffle(items)  # noqa: S311 - no secret
        return {key: shuffled_keys(each, seed) for key, each in items}
    return [shuffled_keys(each, seed) for each in value] if isinstance(value, list) else value


class TestCanonicalJson:
    @pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
    def test_what_json_has_no_word_for_is_refused(self, number: float) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json({"deep": [number]})

    def test_other_types_are_refused(self) -> None:
        with pytest.raises(TypeError):
            canonical_json({"when": {1, 2}})

    @given(value=JSON, seed=st.integers(0, 9))
    @settings(deadline=None, max_examples=40)
    def test_the_order_of_keys_does_not_matter(self, value: object, seed: int) -> None:
        assert canonical_json(shuffled_keys(value, seed)) == canonical_json(value)

    @given(value=JSON)
    @settings(deadline=None, max_examples=40)
    def test_the_text_tells_the_value(self, value: object) -> None:
        assert json.loads(canonical_json(value)) == value

    def test_a_digest_is_that_of_the_canonical_text(self) -> None:
        assert digest_of({"b": [1, 2.5], "a": "ü"}) == hashlib.sha256('{"a":"ü","b":[1,2.5]}'.encode()).hexdigest()


class TestPixelsDigest:
    def test_the_shape_counts(self) -> None:
        pixels = np.arange(6, dtype=np.uint8)
        digests = {pixels_digest(pixels.reshape(shape)) for shape in ((1, 6), (2, 3), (3, 2), (6, 1))}
        assert len(digests) == 4

    @given(position=st.integers(0, 29), mask=st.integers(1, 255))
    @settings(deadline=None, max_examples=40)
    def test_every_byte_counts(self, position: int, mask: int) -> None:
        pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)
        changed = pixels.copy()
        changed.flat[position] ^= mask
        assert pixels_digest(changed) != pixels_digest(pixels)

    def test_the_layout_in_memory_does_not_count(self) -> None:
        pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)
        padded = np.zeros((9, 9), dtype=np.uint8)
        padded[:5, :6] = pixels
        assert pixels_digest(np.asfortranarray(pixels)) == pixels_digest(pixels)
        assert pixels_digest(padded[:5, :6]) == pixels_digest(pixels)

    def test_a_file_saved_otherwise_is_the_same_image(self, tmp_path: Path) -> None:
        pixels = (np.arange(64 * 48, dtype=np.uint32) % 251).astype(np.uint8).reshape(64, 48)
        files = [tmp_path / "fast.png", tmp_path / "small.png", tmp_path / "plain.bmp"]
        for file, options in zip(files, ({"compress_level": 0}, {"compress_level": 9}, {}), strict=True):
            Image.fromarray(pixels).save(file, **options)
        assert len({file_digest(file) for file in files}) == 3
        assert {pixels_digest(np.asarray(Image.open(file))) for file in files} == {pixels_digest(pixels)}

    @pytest.mark.parametrize(
        "pixels", [np.zeros((2, 2)), np.zeros((2, 2, 3), dtype=np.uint8), np.zeros(4, dtype=np.uint8)]
    )
    def test_anything_but_an_8_bit_grey_picture_is_refused(self, pixels: np.ndarray) -> None:
        with pytest.raises(ValueError, match="canonical pixels"):
            pixels_digest(pixels)


def test_a_file_digest_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert file_digest(tmp_path / "file") == hashlib.sha256(data).hexdigest()


@given(raw=st.lists(st.binary(min_size=32, max_size=32), max_size=6))
@settings(deadline=None, max_examples=40)
def test_packing_digests_is_undone_by_unpacking(raw: list[bytes]) -> None:
    digests = [each.hex() for each in raw]
    packed = pack_digests(digests)
    assert packed.shape == (len(raw), 32)
    assert packed.tobytes() == b"".join(raw)
    assert unpack_digests(packed) == digests
