"""A cohort's samples as rows of a store, whose rows are images."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores_kit import embeddings, filled, image, outputs

from stores.errors import RowsMissingError, StoreMismatchError, StoreNotFoundError
from stores.features import FeatureStore
from stores.views import read_samples

SAMPLES = {"p1/a": image(4), "p1/b": image(2), "p2/a": image(4), "p3/a": image(0)}
"""The first and the third are one picture."""

ROWS = [4, 2, 4, 0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return filled(tmp_path_factory.mktemp("features") / "features", 6)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    columns = {"sample_id": list(SAMPLES), "patient_id": ["1", "1", "2", "3"], "image_digest": list(SAMPLES.values())}
    pq.write_table(pa.table(columns), tmp_path / "manifest.parquet")
    return tmp_path / "manifest.parquet"


@pytest.mark.parametrize("output", ["embedding", "blocks"])
def test_all_samples_come_in_the_cohorts_order(store: FeatureStore, output: str) -> None:
    matrix, ids = store.view(SAMPLES).load(output=output)
    assert ids == list(SAMPLES)
    np.testing.assert_array_equal(matrix, outputs(0, 6)[output][ROWS])


def test_samples_come_in_the_order_asked_for_and_as_often(store: FeatureStore) -> None:
    asked = ["p3/a", "p2/a", "p1/a", "p3/a"]
    matrix, ids = store.view(SAMPLES).load(asked)
    assert ids == asked
    np.testing.assert_array_equal(matrix, embeddings(0, 6)[[0, 4, 4, 0]])


def test_no_samples_are_no_rows(store: FeatureStore) -> None:
    assert store.view(SAMPLES).load([]).matrix.shape == (0, 3)
    assert store.view({}).load().matrix.shape == (0, 3)


def test_a_view_has_as_many_rows_as_samples(store: FeatureStore) -> None:
    assert len(store.view(SAMPLES)) == 4


@pytest.mark.parametrize("form", [Path, str])
def test_samples_may_be_those_of_a_manifest(store: FeatureStore, manifest: Path, form: type) -> None:
    view = store.view(form(manifest))
    assert list(view.samples.items()) == list(SAMPLES.items())
    np.testing.assert_array_equal(view.load().matrix, embeddings(0, 6)[ROWS])


def test_a_sample_of_no_cohort_is_counted_and_named(store: FeatureStore) -> None:
    with pytest.raises(RowsMissingError, match=r"2 of 3 samples are not of this cohort, the first is 'p9': .*manifest"):
        store.view(SAMPLES).load(["p1/a", "p9", "p8"])


def test_samples_whose_image_has_no_row_are_told(store: FeatureStore) -> None:
    view = store.view({**SAMPLES, "p7": image(70), "p8": image(80), "p9": image(70)})
    assert view.missing() == ["p7", "p8", "p9"]
    assert store.view(SAMPLES).missing() == []
    with pytest.raises(RowsMissingError, match="2 of 5 images have no features"):
        view.load()
    np.testing.assert_array_equal(view.load(list(SAMPLES)).matrix, embeddings(0, 6)[ROWS])


def test_a_view_follows_its_store(tmp_path: Path) -> None:
    store = filled(tmp_path / "features", 3)
    view = store.view(SAMPLES)
    assert view.missing() == ["p1/a", "p2/a"]
    store.append([image(4)], outputs(4, 5))
    assert view.missing() == []
    np.testing.assert_array_equal(view.load().matrix, embeddings(0, 6)[ROWS])


def test_a_manifest_that_is_not_there_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"no manifest at .*: `peftbench prepare` writes it"):
        read_samples(tmp_path / "manifest.parquet")


def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no table")
    pq.write_table(pa.table({"sample_id": ["a"]}), tmp_path / "other.parquet")
    for name in ("text.parquet", "other.parquet"):
        with pytest.raises(StoreMismatchError, match=f"(?s){name} is no cohort's manifest .*expected manifest.parquet"):
            read_samples(tmp_path / name)
    with pytest.raises(StoreMismatchError, match="is no cohort's manifest"):
        read_samples(tmp_path)
