"""Pixel policies: the table against the same formula pixel by pixel, and the laws that each policy keeps."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.errors import ConfigError, DecodeError, UnknownNameError
from peftbench.imaging.policy import DECODER, MEANING, POLICIES, PixelPolicy, PolicyName, as_policy
from peftbench.imaging.samples import Array, Levels, Samples, luminance, reason
from peftbench.imaging.tones import WIDEST_TABLE, eight_bits, histogram_of
from stores.keys import source_key

STRETCHES: tuple[PolicyName, ...] = ("minmax", "percentile", "equalize")
"""Policies that need nothing but samples."""

ROUNDING = 0.5 + 1e-4
"""A level halfway between two may go either way in single precision."""

Exact = Callable[[list[float]], list[float]]


def minmax_by_pixel(bright: list[float]) -> list[float]:
    low, high = min(bright), max(bright)
    return [255 * (each - low) / (high - low) for each in bright]


def percentile_by_pixel(bright: list[float]) -> list[float]:
    """Between the lowest values that 0.5 and 99.5 percent of the samples do not exceed."""
    ordered = sorted(bright)
    low, high = (ordered[math.ceil(share * len(ordered) / 1000) - 1] for share in (5, 995))
    if low == high:
        low, high = ordered[0], ordered[-1]
    return [min(255.0, max(0.0, 255 * (each - low) / (high - low))) for each in bright]


def equalize_by_pixel(bright: list[float]) -> list[float]:
    """The share of darker samples among those that are neither the darkest nor the brightest; half of one's equals."""
    low, high = min(bright), max(bright)
    inner = [each for each in bright if low < each < high]

    def share(one: float) -> float:
        darker = sum(each < one for each in inner) + sum(each == one for each in inner) / 2
        return 255 * darker / len(inner)

    return [0.0 if one == low else 255.0 if one == high else share(one) for one in bright]


BY_PIXEL: dict[PolicyName, Exact] = {
    "minmax": minmax_by_pixel,
    "percentile": percentile_by_pixel,
    "equalize": equalize_by_pixel,
}


def tones(stored: Array, policy: PolicyName, **meaning: object) -> npt.NDArray[np.int64]:
    found = eight_bits(Samples(stored, **meaning), PixelPolicy(name=policy))  # type: ignore[arg-type]
    assert found.dtype == np.uint8
    assert found.shape == stored.shape
    return found.astype(np.int64)


def pictures(lowest: int = 0, highest: int = 65535) -> st.SearchStrategy[Array]:
    """Small pictures of at least two values; some of few values, many of them equal."""
    numbers = st.lists(st.integers(lowest, highest), min_size=2, max_size=120)
    few = st.lists(st.sampled_from([lowest, (lowest + highest) // 3, highest - 1, highest]), min_size=2, max_size=120)
    return (numbers | few).filter(lambda each: len(set(each)) > 1).map(lambda each: np.array([each], dtype=np.int32))


RANDOM = np.random.default_rng(3)
PICTURES: dict[str, Array] = {
    "uint8": RANDOM.integers(0, 256, (14, 21)).astype(np.uint8),
    "uint8 in part": RANDOM.integers(90, 140, (14, 21)).astype(np.uint8),
    "int8": RANDOM.integers(-128, 128, (14, 21)).astype(np.int8),
    "uint16": RANDOM.integers(0, 65536, (14, 21)).astype(np.uint16),
    "12 bits": RANDOM.integers(0, 4096, (14, 21)).astype(np.uint16),
    "big endian": RANDOM.integers(0, 65536, (14, 21)).astype(">u2"),
    "int16": RANDOM.integers(-32768, 32768, (14, 21)).astype(np.int16),
    "big endian signed": RANDOM.integers(-2000, 2000, (14, 21)).astype(">i2"),
    "int32": RANDOM.integers(-5000, 5000, (14, 21)).astype(np.int32),
    "int32, wide": RANDOM.integers(-(2**31), 2**31, (14, 21)).astype(np.int32),
    "uint32, high": (2**32 - 1 - RANDOM.integers(0, 999, (14, 21))).astype(np.uint32),
    "int64": RANDOM.integers(-5000, 5000, (14, 21)).astype(np.int64),
    "uint64": RANDOM.integers(0, 5000, (14, 21)).astype(np.uint64),
    "float32": RANDOM.normal(0, 1, (14, 21)).astype(np.float32),
    "float64": RANDOM.normal(0, 1e6, (14, 21)),
    "few values": RANDOM.choice([3, 3, 3, 7, 9, 200], (14, 21)).astype(np.uint16),
    "one pixel high": RANDOM.integers(0, 256, (1, 300)).astype(np.uint8),
    "many rows": RANDOM.integers(0, 4096, (301, 2)).astype(np.uint16),
}


class TestAgainstPixelByPixel:
    @pytest.mark.parametrize("policy", STRETCHES)
    @pytest.mark.parametrize("inverted", [False, True])
    @pytest.mark.parametrize("name", PICTURES)
    def test_every_type_of_samples(self, name: str, inverted: bool, policy: PolicyName) -> None:
        stored = PICTURES[name]
        sign = -1.0 if inverted else 1.0
        exact = BY_PIXEL[policy]([sign * float(each) for each in stored.reshape(-1)])
        found = tones(stored, policy, inverted=inverted)
        assert np.abs(found.reshape(-1) - exact).max() <= ROUNDING

    @settings(max_examples=80, deadline=None)
    @given(pictures(), st.sampled_from(STRETCHES), st.booleans())
    def test_any_samples(self, stored: Array, policy: PolicyName, inverted: bool) -> None:
        bright = [-float(each) if inverted else float(each) for each in stored[0]]
        if policy == "equalize" and len(set(bright)) == 2:
            return
        assert np.abs(tones(stored, policy, inverted=inverted)[0] - BY_PIXEL[policy](bright)).max() <= ROUNDING

    @pytest.mark.parametrize("policy", STRETCHES)
    def test_a_table_and_sorting_agree(self, policy: PolicyName) -> None:
        stored = RANDOM.integers(0, 3000, (20, 20)).astype(np.int64)
        wide = stored * WIDEST_TABLE
        assert wide.max() - wide.min() > WIDEST_TABLE
        np.testing.assert_array_equal(tones(stored, policy), tones(wide, policy))

    @pytest.mark.parametrize("name", PICTURES)
    def test_the_histogram_says_what_is_there(self, name: str) -> None:
        stored = PICTURES[name]
        histogram = histogram_of(stored)
        np.testing.assert_array_equal(histogram.values[histogram.places], stored)
        values, counts = np.unique(stored, return_counts=True)
        seen = histogram.counts > 0
        np.testing.assert_array_equal(histogram.values[seen], values)
        np.testing.assert_array_equal(histogram.counts[seen], counts)


class TestLaws:
    @pytest.mark.slow
    @settings(max_examples=80, deadline=None)
    @given(pictures(-40000, 40000), st.sampled_from(STRETCHES))
    def test_a_brighter_sample_is_never_a_darker_pixel(self, stored: Array, policy: PolicyName) -> None:
        found = tones(stored, policy)[0]
        assert (np.diff(found[np.argsort(stored[0], kind="stable")]) >= 0).all()
        assert (found.min(), found.max()) == (0, 255)

    @pytest.mark.slow
    @settings(max_examples=80, deadline=None)
    @given(pictures(), st.sampled_from(STRETCHES))
    def test_a_negative_is_the_complement(self, stored: Array, policy: PolicyName) -> None:
        found = tones(stored, policy, inverted=True)
        assert np.abs(255 - found - tones(stored, policy)).max() <= 1

    @settings(max_examples=80, deadline=None)
    @given(pictures(), st.sampled_from(STRETCHES))
    def test_a_picture_stored_as_its_negative_is_the_same_picture(self, stored: Array, policy: PolicyName) -> None:
        found = tones(65535 - stored, policy, inverted=True)
        assert np.abs(found - tones(stored, policy)).max() <= (policy == "minmax")

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20, unique=True),
        st.sampled_from(STRETCHES),
    )
    def test_floats_of_any_size(self, numbers: list[float], policy: PolicyName) -> None:
        """Also beyond single precision, and so near to each other that double precision is needed."""
        stored = np.array([numbers])
        if stored.min() == stored.max():  # 0 and -0
            return
        with np.errstate(all="raise", under="ignore"):
            found = tones(stored, policy)[0]
        assert (np.diff(found[np.argsort(stored[0], kind="stable")]) >= 0).all()
        assert (found[stored[0].argmin()], found[stored[0].argmax()]) == (0, 255)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(400, 2000), st.integers(10_000, 65_535), st.integers(0, 2**32 - 1))
    def test_percentile_does_not_see_one_sample_in_a_thousand(self, size: int, outlier: int, seed: int) -> None:
        stored = np.random.default_rng(seed).integers(1000, 2000, (1, size)).astype(np.uint16)
        struck = stored.copy()
        struck[0, 0] = outlier
        differences = np.abs(tones(stored, "percentile") - tones(struck, "percentile"))[0, 1:]
        assert differences.max() <= 255 * 60 / 900, "the percentiles move by a rank"
        assert tones(struck, "minmax")[0, 1:].max() < 60

    @pytest.mark.parametrize("shape", ["normal", "exponential", "with a black background"])
    def test_equalize_makes_all_tones_about_equally_frequent(self, shape: str) -> None:
        numbers = {
            "normal": RANDOM.normal(2000, 300, (200, 200)),
            "exponential": RANDOM.exponential(500, (200, 200)),
            "with a black background": np.where(
                RANDOM.random((200, 200)) < 0.4, 0, RANDOM.normal(2000, 300, (200, 200))
            ),
        }[shape]
        stored = np.clip(numbers * 8, 0, 65535).astype(np.uint16)
        inner = tones(stored, "equalize")[(stored > stored.min()) & (stored < stored.max())]
        shares = np.histogram(inner, bins=16, range=(0, 256))[0] / inner.size
        assert np.abs(shares - 1 / 16).max() < 0.004

    @settings(max_examples=100, deadline=None)
    @given(pictures(0, 4000), st.sampled_from(["square", "root", "logarithm", "line"]))
    def test_equalize_sees_only_the_order(self, stored: Array, curve: str) -> None:
        bent = {
            "square": lambda x: x.astype(np.int64) ** 2,
            "root": np.sqrt,
            "logarithm": np.log1p,
            "line": lambda x: 13 * x - 7,
        }[curve](stored)
        np.testing.assert_array_equal(tones(bent, "equalize"), tones(stored, "equalize"))

    @settings(max_examples=60, deadline=None)
    @given(pictures(), st.sampled_from(STRETCHES), st.floats(0.01, 100), st.floats(-1e5, 1e5))
    def test_a_rescaling_changes_nothing_but_its_sign(
        self, stored: Array, policy: PolicyName, slope: float, intercept: float
    ) -> None:
        def rescaled(sign: float) -> Callable[[Array], Levels]:
            return lambda values: values.astype(np.float64) * sign * slope + intercept

        plain = tones(stored, policy)
        assert np.abs(tones(stored, policy, rescaled=rescaled(1)) - plain).max() <= 1
        assert np.abs(255 - tones(stored, policy, rescaled=rescaled(-1)) - plain).max() <= 1

    @pytest.mark.parametrize("policy", POLICIES)
    def test_the_samples_are_left_as_they_are(self, policy: PolicyName) -> None:
        stored = PICTURES["12 bits"].copy()
        stored.setflags(write=False)
        tones(stored, policy)
        np.testing.assert_array_equal(stored, PICTURES["12 bits"])


class TestPadding:
    @pytest.mark.parametrize("policy", STRETCHES)
    @pytest.mark.parametrize("inverted", [False, True])
    @pytest.mark.parametrize("padding", [(0, 0), (65000, 65535)], ids=["value", "range"])
    def test_filling_is_black_and_does_not_count(
        self, padding: tuple[int, int], inverted: bool, policy: PolicyName
    ) -> None:
        measured = RANDOM.integers(1000, 3000, (1, 400)).astype(np.uint16)
        filling = RANDOM.integers(padding[0], padding[1] + 1, (1, 90)).astype(np.uint16)
        found = tones(np.hstack([measured, filling]), policy, inverted=inverted, padding=padding)
        np.testing.assert_array_equal(found[:, :400], tones(measured, policy, inverted=inverted))
        assert (found[:, 400:] == 0).all()

    def test_nothing_but_filling(self) -> None:
        with pytest.raises(DecodeError, match="all of it is filling"):
            tones(np.full((3, 3), 7, np.uint16), "minmax", padding=(7, 7))

    def test_one_value_beside_filling(self) -> None:
        with pytest.raises(DecodeError, match="every sample is 9"):
            tones(np.array([[7, 9]], np.uint16), "minmax", padding=(7, 7))


class TestWindow:
    STORED = np.arange(100, dtype=np.uint16).reshape(10, 10)

    @staticmethod
    def shown(levels: Levels) -> Levels:
        return np.clip((levels - 20) / 50, 0, 1)

    @pytest.mark.parametrize("inverted", [False, True])
    def test_is_taken_where_a_file_names_one(self, inverted: bool) -> None:
        exact = 255 * self.shown(self.STORED.astype(np.float64))
        found = tones(self.STORED, "window", windowed=self.shown, inverted=inverted)
        assert np.abs(found - (255 - exact if inverted else exact)).max() <= 0.5

    def test_is_min_max_where_a_file_names_none(self) -> None:
        np.testing.assert_array_equal(tones(self.STORED, "window"), tones(self.STORED, "minmax"))

    @pytest.mark.parametrize("policy", STRETCHES)
    def test_is_ignored_by_the_other_policies(self, policy: PolicyName) -> None:
        np.testing.assert_array_equal(tones(self.STORED, policy, windowed=self.shown), tones(self.STORED, policy))

    def test_that_shows_nothing_is_refused(self) -> None:
        with pytest.raises(DecodeError, match="its window shows every sample in one tone"):
            tones(self.STORED // 9, "window", windowed=self.shown)


class TestNothingToSee:
    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("value", [0, 255, -7, 1.5, 1e300])
    def test_one_value(self, value: float, policy: PolicyName) -> None:
        with pytest.raises(DecodeError, match="holds nothing to see: every sample is"):
            tones(np.full((4, 5), value), policy)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("policy", POLICIES)
    def test_samples_that_are_no_numbers(self, value: float, policy: PolicyName) -> None:
        with pytest.raises(DecodeError, match="some samples are not finite"):
            tones(np.array([[1.0, value, 3.0]]), policy)

    def test_a_rescaling_that_overflows(self) -> None:
        with pytest.raises(DecodeError, match="some samples are not finite"), np.errstate(over="ignore"):
            tones(np.array([[0, 1, 2]]), "minmax", rescaled=lambda values: values * 1e308 * 5)


class TestPolicy:
    def test_every_policy_and_side_has_a_key_of_its_own(self) -> None:
        policies = [PixelPolicy(name=name, side=side) for name in POLICIES for side in (32, 511, 512, 4096)]
        recipes, digests = {each.recipe for each in policies}, {each.digest for each in policies}
        keys = {source_key("0" * 64, each.recipe) for each in policies}
        assert len(recipes) == len(digests) == len(keys) == len(policies) == 16

    def test_the_recipe_says_what_is_done(self) -> None:
        for name in POLICIES:
            assert name in PixelPolicy(name=name).recipe
        assert (
            PixelPolicy(name="percentile").recipe == f"{DECODER}|percentile(0.5,99.5)(8bit)|fit(512,bicubic,antialias)"
        )

    def test_every_policy_has_a_meaning(self) -> None:
        assert set(MEANING) == set(POLICIES)

    def test_by_name(self) -> None:
        assert as_policy("equalize", 256) == PixelPolicy(name="equalize", side=256)
        chosen = PixelPolicy(name="window")
        assert as_policy(chosen) is chosen

    def test_an_unknown_name_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean minmax"):
            as_policy("min-max")

    @pytest.mark.parametrize("side", [0, 31, 4097])
    def test_a_side_out_of_range(self, side: int) -> None:
        with pytest.raises(ConfigError, match="expected 32 to 4096"):
            as_policy("minmax", side)


class TestLuminance:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.int16, np.uint32])
    def test_equal_channels_come_out_unchanged(self, dtype: npt.DTypeLike) -> None:
        limits = np.iinfo(np.dtype(dtype))
        grey = np.linspace(limits.min, limits.max, 999).astype(dtype).reshape(27, 37)
        found = luminance(np.stack([grey] * 3, axis=2, dtype=grey.dtype, casting="no"))
        assert found.dtype == grey.dtype
        np.testing.assert_array_equal(found, grey)

    def test_channels_are_weighted(self) -> None:
        colours = RANDOM.integers(0, 65536, (30, 30, 3)).astype(np.uint16)
        exact = colours @ np.array([0.299, 0.587, 0.114])
        assert np.abs(luminance(colours) - exact).max() <= 1


class TestReason:
    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (ValueError("could not convert string to float: 'DOE^JANE'"), "could not convert string to float: ..."),
            (ValueError('not the name O\'NEIL but "DOE"'), "not the name O..."),
            (ValueError("two lines\nhere"), "two lines"),
            (RuntimeError("all failed:\n  one: the stream is short"), "one: the stream is short"),
            (ValueError("bell \a and tab \t rang"), "bell  and tab rang"),
            (ValueError("no file <_io.BytesIO object at 0x7f>"), "no file ..."),
            (KeyError("DOE^JANE"), "KeyError"),
            (ValueError(""), "ValueError"),
        ],
    )
    def test_is_one_line_without_what_is_quoted(self, error: Exception, told: str) -> None:
        assert reason(error) == told

    def test_is_short(self) -> None:
        assert len(reason(ValueError("much " * 1000))) == 200


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16])
def test_the_short_way_of_min_max_is_the_long_one_to_the_bit(kind: type[np.integer], *, inverted: bool) -> None:
    generator, limits = np.random.default_rng(7), np.iinfo(kind)
    for _ in range(200):
        low, high = sorted(generator.integers(limits.min, limits.max + 1, 2))
        stored = generator.integers(low, high + 1, (70, 9)).astype(kind)
        stored[0, 0], stored[0, 1] = low, high
        if low < high:
            wide = Samples(stored.astype(np.int32), inverted=inverted)
            short = eight_bits(Samples(stored, inverted=inverted), PixelPolicy())
            assert np.array_equal(short, eight_bits(wide, PixelPolicy()))
