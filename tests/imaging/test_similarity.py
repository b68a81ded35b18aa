"""Copies of one film are found whatever was done to them, and different films are left alone."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from peftbench.imaging import similarity
from peftbench.imaging.decode import PixelPolicy, canonical_pixels
from peftbench.imaging.similarity import SIDE, fingerprint, near_pairs

pytestmark = pytest.mark.slow

Picture = npt.NDArray[np.uint8]
Change = Callable[[Picture], Picture]


def resaved(picture: Picture, scale: float = 1.0, quality: int = 80) -> Picture:
    height, width = picture.shape
    resized = Image.fromarray(picture).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    resized.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def equalised(picture: Picture) -> Picture:
    counts = np.bincount(picture.ravel(), minlength=256)
    return (np.cumsum(counts) * 255 / picture.size).astype(np.uint8)[picture]


def windowed(picture: Picture) -> Picture:
    low, high = np.percentile(picture, [5, 95])
    return ((picture - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def processed(picture: Picture) -> Picture:
    """A contrast-processed copy: a sigmoid tone curve, then coarse and fine edges raised."""
    toned = 255 / (1 + np.exp(-10 * (picture / 255 - 0.5)))
    sharp = toned + 0.7 * (toned - gaussian_filter(toned, 15)) + 0.7 * (toned - gaussian_filter(toned, 2))
    return sharp.clip(0, 255).astype(np.uint8)


def cut(picture: Picture, left: float = 0.0, top: float = 0.0, right: float = 0.0, bottom: float = 0.0) -> Picture:
    height, width = picture.shape
    return picture[int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)]


def framed(picture: Picture, share: float, value: int = 0) -> Picture:
    height, width = picture.shape
    return np.pad(picture, ((int(share * height),) * 2, (int(share * width),) * 2), constant_values=value)


CHANGES: dict[str, Change] = {
    "quality 60": lambda picture: resaved(picture, 1.0, 60),
    "half the size": lambda picture: resaved(picture, 0.5),
    "double the size": lambda picture: resaved(picture, 2.0),
    "equalised": equalised,
    "windowed": windowed,
    "gamma 0.5": lambda picture: (255 * (picture / 255) ** 0.5).astype(np.uint8),
    "gamma 2": lambda picture: (255 * (picture / 255) ** 2.0).astype(np.uint8),
    "processed, half the size, quality 60": lambda picture: resaved(processed(picture), 0.5, 60),
    "3 % cut off all around": lambda picture: cut(picture, 0.03, 0.03, 0.03, 0.03),
    "5 % cut off at the left": lambda picture: cut(picture, left=0.05),
    "a black frame of 3 %": lambda picture: framed(picture, 0.03),
    "a white frame of 3 %": lambda picture: framed(picture, 0.03, 255),
}


def film(seed: int, extent: tuple[int, int] = (300, 260)) -> Picture:
    """Something that looks different with each seed, with detail of every size, as in nature."""
    noise = np.random.default_rng(seed)
    layers = [zoom(noise.normal(size=(side, side)), [each / side for each in extent], order=3) / side**0.5 * 2
              for side in (4, 8, 16, 32, 64)]  # fmt: skip
    total = np.sum(layers, axis=0)
    return ((total - total.min()) / np.ptp(total) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def films() -> list[Picture]:
    return [film(seed) for seed in range(8)]


@pytest.fixture(scope="module")
def phantoms(phantom_raw: Path) -> tuple[list[Picture], list[str]]:
    """Pictures of the phantom and whose they are."""
    import pandas as pd

    table = pd.read_csv(phantom_raw / "phantom.csv", dtype=str)
    files = [next((phantom_raw / "images").glob(f"{image}.*")) for image in table["image_id"]]
    return [canonical_pixels(file, PixelPolicy()) for file in files], table["patient_id"].tolist()


def prints(pictures: list[Picture]) -> Picture:
    return np.stack([fingerprint(picture) for picture in pictures])


def test_a_fingerprint_has_one_size_and_no_tone() -> None:
    picture = film(1)
    assert fingerprint(picture).shape == (SIDE, SIDE)
    brighter = (picture // 2 + 100).astype(np.uint8)
    assert np.abs(fingerprint(picture).astype(int) - fingerprint(brighter)).mean() < 2


@pytest.mark.parametrize("name", CHANGES)
def test_a_copy_is_found(films: list[Picture], name: str) -> None:
    found = near_pairs(prints(films), prints([CHANGES[name](picture) for picture in films]))
    assert found.first.tolist() == found.second.tolist() == list(range(len(films)))
    assert not found.mirrored.any()
    assert not found.inverted.any()


def test_a_mirrored_and_an_inverted_copy_are_found_as_such(films: list[Picture]) -> None:
    copies = [films[0][:, ::-1].copy(), 255 - films[1], 255 - films[2][:, ::-1]]
    found = near_pairs(prints(films), prints([resaved(copy) for copy in copies]))
    assert found.first.tolist() == found.second.tolist() == [0, 1, 2]
    assert found.mirrored.tolist() == [True, False, True]
    assert found.inverted.tolist() == [False, True, True]


def test_within_one_set_each_pair_comes_once_and_none_with_itself(films: list[Picture]) -> None:
    found = near_pairs(prints([*films, cut(films[3], top=0.04), resaved(films[0], 0.6)]))
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(0, 9), (3, 8)]
    assert (found.score > 0.9).all()


def test_phantoms_of_different_patients_are_no_copies_and_their_copies_are(
    phantoms: tuple[list[Picture], list[str]],
) -> None:
    pictures, patients = phantoms
    within = near_pairs(prints(pictures))
    assert all(patients[one] == patients[other] for one, other in zip(within.first, within.second, strict=True))
    found = near_pairs(prints(pictures), prints([resaved(picture, 0.75) for picture in pictures]))
    own = found.first == found.second
    assert own.sum() == len(pictures)


def test_a_blank_picture_resembles_nothing() -> None:
    blank = np.zeros((100, 100), dtype=np.uint8)
    blank[:20] = np.arange(100)
    tiny = np.full((2, 2), 7, dtype=np.uint8)
    assert not len(near_pairs(prints([blank, blank.copy(), tiny, tiny.copy()])))


def test_pictures_of_a_few_pixels_are_not_told_apart() -> None:
    small = np.random.default_rng(0).integers(0, 256, (31, 200), dtype=np.uint8)
    assert not len(near_pairs(prints([small, small.copy()])))


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 2), (1, 1)])
def test_few_or_no_pictures(films: list[Picture], counts: tuple[int, int]) -> None:
    left, right = (np.zeros((0, SIDE, SIDE), np.uint8) if not n else prints(films[:n]) for n in counts)
    assert len(near_pairs(left, right)) == min(counts)
    assert not len(near_pairs(left))


def test_every_sweep_is_told(films: list[Picture]) -> None:
    told = []
    near_pairs(prints(films[:2]), step=lambda: told.append(1))
    assert len(told) == similarity.SWEEPS


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(0, 17), st.integers(0, 17)),
    block=st.integers(1, 20),
    threshold=st.floats(0.05, 0.95),
)
def test_the_blocked_search_is_the_double_loop(seed: int, sizes: tuple[int, int], block: int, threshold: float) -> None:
    noise = np.random.default_rng(seed)
    # Halves of small whole numbers: products are exact in any order of summation.
    left, right = (noise.integers(-2, 3, (size, 5)).astype(np.float32) / 4 for size in sizes)
    found = similarity.above(left, right, threshold, block)
    naive = [
        (i, j, float(one @ other))
        for i, one in enumerate(left)
        for j, other in enumerate(right)
        if abs(one @ other) >= threshold
    ]
    assert sorted(zip(*(column.tolist() for column in found), strict=True)) == naive


@settings(deadline=None, max_examples=10)
@given(block=st.integers(1, 20), threshold=st.floats(0.1, 0.6))
def test_candidates_do_not_depend_on_the_block(films: list[Picture], block: int, threshold: float) -> None:
    thumbnails = prints(films)
    whole = similarity.candidates(thumbnails, threshold=threshold)
    parts = similarity.candidates(thumbnails, threshold=threshold, block=block)
    assert whole.first.tolist() == parts.first.tolist()
    assert whole.second.tolist() == parts.second.tolist()
    np.testing.assert_allclose(whole.score, parts.score, atol=1e-5)


def test_the_nearest_row_of_another_owner() -> None:
    rows = np.array([[1, 0], [1, 0.1], [0.9, 0.3], [0, 1]], dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = similarity.nearest(rows, np.array([0, 0, 1, 2]), rows, np.array([0, 0, 1, 2]), block=3)
    assert found.row.tolist() == [2, 2, 1, 2]
    expected = rows[1] @ rows[2] - rows[3] @ rows[2]
    assert found.lead[2] == pytest.approx(expected), "to the nearest of a third owner"
    assert found.lead[1] == pytest.approx(rows[1] @ rows[2] - rows[1] @ rows[3])


def test_only_mutual_pairs_with_a_lead_count() -> None:
    forth = similarity.Nearest(np.array([1, 0, 0]), np.array([0.9, 0.9, 0.8]), np.array([0.5, 0.4, 0.5]))
    left, right, cosine = similarity.mutual_pairs(forth, forth, 0.6, 0.3)
    assert (left.tolist(), right.tolist(), cosine.tolist()) == ([0, 1], [1, 0], [0.9, 0.9])
    assert not similarity.mutual_pairs(forth, forth, 0.6, 0.45)[0].size
    assert not similarity.mutual_pairs(forth, forth, 0.95, 0.3)[0].size


@pytest.fixture(scope="module")
def real(hannover_raw: Path) -> list[Picture]:
    return [canonical_pixels(file, PixelPolicy()) for file in sorted((hannover_raw / "png").glob("*.png"))]


def test_all_of_hannover_is_found_again_and_no_two_of_its_films_are_copies(real: list[Picture]) -> None:
    originals = prints(real)
    assert not len(near_pairs(originals))
    found = near_pairs(originals, prints([resaved(picture, 0.75, 80) for picture in real]))
    assert found.first.tolist() == found.second.tolist() == list(range(len(real)))
    assert found.score.min() > 0.95


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_leaves_real_films_recognisable(real: list[Picture], name: str) -> None:
    some = real[::24]
    found = near_pairs(prints(some), prints([CHANGES[name](picture) for picture in some]))
    assert found.first.tolist() == found.second.tolist() == list(range(len(some)))
