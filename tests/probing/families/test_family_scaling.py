"""What scaling leaves: mean 0, the deviation it promises, and constants at exactly 0."""

import numpy as np
import pytest
from family_kit import law, sized
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from peftbench.errors import ConfigError
from peftbench.probing.families.scaling import Scaler, principal_axes, unit_rows


@law
def test_feature_scaling_is_that_of_scikit_learn(size: tuple[int, int, int]) -> None:
    matrix, _ = sized(size)
    found = Scaler.fit(matrix, "feature").apply(matrix)
    np.testing.assert_allclose(found, StandardScaler().fit_transform(matrix), atol=1e-9)


@law
def test_global_scaling_keeps_the_shape_of_the_cloud(size: tuple[int, int, int]) -> None:
    matrix, _ = sized(size)
    scaler = Scaler.fit(matrix, "global")
    found = scaler.apply(matrix)
    assert np.mean(found**2) == pytest.approx(1)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
    assert len(set(scaler.scale.tolist())) == 1


def test_no_scaling_changes_nothing() -> None:
    matrix = np.array([[1.0, 2.0], [3.0, 5.0]], dtype=np.float32)
    found = Scaler.fit(matrix, "none").apply(matrix)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, matrix)


@pytest.mark.parametrize("scaling", ["feature", "global"])
@given(value=st.floats(-1e6, 1e6), rows=st.integers(1, 300))
@example(value=0.1, rows=1000)
@example(value=100_000.1, rows=13_639)
@settings(deadline=None, max_examples=20)
def test_what_is_constant_becomes_exactly_zero(scaling: str, value: float, rows: int) -> None:
    matrix = np.full((rows, 3), value)
    scaler = Scaler.fit(matrix, scaling)  # type: ignore[arg-type]
    assert scaler.scale.tolist() == [1.0] * 3
    assert not scaler.apply(matrix).any()


def test_half_precision_is_summed_in_double() -> None:
    matrix = np.full((3000, 1), 60000.0, dtype=np.float16)
    matrix[0] = 0.0
    assert Scaler.fit(matrix, "feature").mean[0] == pytest.approx(matrix.astype(np.float64).mean())


def test_an_unknown_scaling_is_refused() -> None:
    with pytest.raises(ConfigError, match="'max', expected one of feature, global, none"):
        Scaler.fit(np.ones((2, 2)), "max")  # type: ignore[arg-type]


def test_rows_of_zeros_stay_zeros() -> None:
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


@law
def test_axes_and_energies_are_those_of_the_singular_values(size: tuple[int, int, int]) -> None:
    matrix, _ = sized(size)
    axes, energy = principal_axes(matrix)
    expected = np.linalg.svd(matrix, compute_uv=False)[::-1] ** 2
    np.testing.assert_allclose(energy, expected, rtol=1e-6, atol=1e-9 * expected.max())
    np.testing.assert_allclose(axes @ (axes.T @ matrix), matrix, atol=1e-6)
