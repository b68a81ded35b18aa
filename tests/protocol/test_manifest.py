"""The manifest: read as written, whole, without doubles, and without a raw identifier."""

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_kit import manifest_frame

from peftbench.errors import NotPreparedError
from peftbench.protocol.manifest import REQUIRED, Manifest, pseudonym, source_digest

FRAME = manifest_frame(["a", "a", "b"], outcome=["yes", None, "no"], age=[71.5, float("nan"), 40.0])


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    Manifest("toy", FRAME).write(tmp_path / "manifest.parquet")
    found = Manifest.read("toy", tmp_path / "manifest.parquet")
    assert found.cohort == "toy"
    pd.testing.assert_frame_equal(found.frame, FRAME)


KINDS = {
    "texts": pd.Series(["a", None, ""]),
    "texts as objects": pd.Series(["a", None, ""], dtype=object),
    "nothing": pd.Series([None] * 3, dtype=object),
    "nothing, as NaN": pd.Series([np.nan] * 3, dtype=object),
    "whole numbers": pd.Series([1, 2, 3]),
    "whole numbers as objects": pd.Series([1, 2, 3], dtype=object),
    "whole numbers with gaps": pd.Series([1, None, 3], dtype="Int64"),
    "single precision": pd.Series([0.1, np.nan, np.inf], dtype="float32"),
    "truth values": pd.Series([True, False, True]),
    "truth values with gaps": pd.Series([True, None, False], dtype=object),
    "categories": pd.Series(["a", None, "b"], dtype="category"),
    "days": pd.Series(pd.to_datetime(["2020-03-01", None, "2020-03-02"])).astype("datetime64[s]"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_covariate_holds_is_read_back(tmp_path: Path, kind: str) -> None:
    Manifest("toy", FRAME.assign(covariate=KINDS[kind])).write(tmp_path / "manifest.parquet")
    found = Manifest.read("toy", tmp_path / "manifest.parquet").frame["covariate"]
    known = KINDS[kind].notna()
    assert found.notna().tolist() == known.tolist()
    assert found[known].tolist() == KINDS[kind][known].tolist()


def test_writing_the_same_manifest_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        Manifest("toy", FRAME).write(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("column", REQUIRED)
def test_every_required_column_is_required(column: str) -> None:
    with pytest.raises(ValueError, match=f"needs the columns .'{column}'"):
        Manifest("toy", FRAME.drop(columns=column))


def test_a_sample_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="sample_id is not unique"):
        Manifest("toy", pd.concat([FRAME, FRAME.iloc[:1]]))


def test_a_cohort_that_is_not_prepared_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(NotPreparedError, match=r"'toy' .*`peftbench prepare toy --raw DIR`"):
        Manifest.read("toy", tmp_path / "manifest.parquet")


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        Manifest("toy", FRAME).write(tmp_path / "manifest.parquet")
        return tmp_path / "manifest.parquet"

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_a_manifest_cut_short_names_the_command(self, path: Path, share: float) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(NotPreparedError, match="`peftbench prepare toy"):
            Manifest.read("toy", path)

    def test_a_flipped_byte_is_noticed_or_changes_nothing(self, path: Path) -> None:
        data = path.read_bytes()
        for position in np.random.default_rng(0).integers(0, len(data), 150):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            with suppress(NotPreparedError):
                pd.testing.assert_frame_equal(Manifest.read("toy", path).frame, FRAME)


class TestPseudonym:
    def test_it_stays_the_same_for_ever(self) -> None:
        text = '["pseudonym","hannover","patient","17"]'
        expected = f"p-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        assert pseudonym("hannover", "patient", "17") == expected == "p-24254eff0a77"

    @given(raw_id=st.text(min_size=4, max_size=20))
    @settings(deadline=None, max_examples=50)
    def test_it_does_not_contain_the_raw_identifier(self, raw_id: str) -> None:
        assert raw_id not in pseudonym("toy", "patient", raw_id)

    @given(
        one=st.tuples(st.sampled_from(["toy", "toys"]), st.sampled_from(["patient", "sample"]), st.text(max_size=4)),
        other=st.tuples(st.sampled_from(["toy", "toys"]), st.sampled_from(["patient", "sample"]), st.text(max_size=4)),
    )
    @settings(deadline=None, max_examples=50)
    def test_it_depends_on_cohort_kind_and_identifier(
        self, one: tuple[str, str, str], other: tuple[str, str, str]
    ) -> None:
        assert (pseudonym(*one) == pseudonym(*other)) == (one == other)

    def test_patients_and_samples_are_told_apart_at_sight(self) -> None:
        assert pseudonym("toy", "patient", "1")[:2] == "p-"
        assert pseudonym("toy", "sample", "1")[:2] == "s-"


class TestSourceDigest:
    def test_it_depends_on_the_bytes_and_the_policy_not_on_the_name(self, tmp_path: Path) -> None:
        for name, data in (("a.png", b"one"), ("b.png", b"one"), ("c.png", b"two")):
            (tmp_path / name).write_bytes(data)
        a, b, c = (source_digest(tmp_path / name, "minmax") for name in ("a.png", "b.png", "c.png"))
        assert a == b
        assert a[0] != c[0]
        assert a[1] != c[1]
        other_policy = source_digest(tmp_path / "a.png", "percentile")
        assert other_policy[0] == a[0]
        assert other_policy[1] != a[1]
