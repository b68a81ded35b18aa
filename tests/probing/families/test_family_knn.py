"""Neighbours' votes are those of a loop, in blocks or not, and ties vote together."""

from typing import Any

import numpy as np
import pytest
from family_kit import (
    DEGENERATE,
    Events,
    Matrix,
    candidates,
    check_degenerate,
    law,
    problem,
    sized,
    view_columns,
)

from peftbench.probing.families import knn
from peftbench.probing.families.knn import KNN, TEMPERATURE, NeighborFamily


def unit(rows: Matrix) -> Matrix:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)


def vote(similarity: Matrix, event: Events, k: int, *, balanced: bool) -> float:
    """One row's share of votes, by a loop."""
    counts = np.bincount(event, minlength=2)
    votes = [0.0, 0.0]
    for at in np.argsort(-similarity, kind="stable")[:k]:
        votes[event[at]] += np.exp(similarity[at] / TEMPERATURE) / (counts[event[at]] if balanced else 1)
    return votes[1] / sum(votes)


@pytest.mark.parametrize("shape", [(60, 20, 20), (25, 80, 9)])
@pytest.mark.parametrize("weighting", ["balanced", "none"])
def test_votes_are_those_of_a_loop(shape: tuple[int, int, int], weighting: str) -> None:
    matrix, event = problem(*shape)
    fresh = problem(*shape, seed=1)[0]
    mean, deviation = matrix.mean(axis=0), matrix.std(axis=0)
    similarity = unit((fresh - mean) / deviation) @ unit((matrix - mean) / deviation).T
    for settings, model in candidates(KNN, matrix, event, class_weight=weighting):
        expected = [vote(each, event, settings["k"], balanced=weighting == "balanced") for each in similarity]
        np.testing.assert_allclose(model.probability(fresh), expected, atol=1e-5)


@pytest.mark.parametrize("weighting", ["balanced", "none"])
def test_leaving_out_is_leaving_out(weighting: str) -> None:
    matrix, event = problem(25, 10, 9)
    rows = unit((matrix - matrix.mean(axis=0)) / matrix.std(axis=0))
    for settings, model in candidates(KNN, matrix, event, class_weight=weighting):
        for row in range(len(event)):
            similarity, rest = np.delete(rows @ rows[row], row), np.delete(event, row)
            expected = vote(similarity, rest, settings["k"], balanced=weighting == "balanced")
            assert model.left_out[row] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("block", [1, 60, 200])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    matrix, event = problem(60, 20, 20)
    whole = candidates(KNN, matrix, event)
    monkeypatch.setattr(knn, "_BLOCK", block)
    for one, other in zip(whole, candidates(KNN, matrix, event), strict=True):
        np.testing.assert_allclose(other.model.left_out, one.model.left_out, atol=1e-5)
        np.testing.assert_allclose(other.model.probability(matrix[:7]), one.model.probability(matrix[:7]), atol=1e-5)


def test_most_neighbours_come_first_and_none_beyond_the_rows() -> None:
    assert [each.settings["k"] for each in candidates(KNN, *problem(30, 5, 10))] == [30, 20, 10, 5, 3, 1]
    assert candidates(KNN, *problem(250, 5, 90))[0].settings["k"] == 200
    assert not KNN.path


def test_similarities_are_computed_once_for_all_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    block = knn.NeighborIndex._block

    def counted(*given: Any, **told: Any) -> Matrix:
        asked.append(1)
        return block(*given, **told)

    monkeypatch.setattr(knn.NeighborIndex, "_block", counted)
    matrix, event = problem(40, 5, 10)
    found = candidates(KNN, matrix, event)
    for each in found:
        each.model.probability(matrix.copy())
    assert len(asked) == 1
    matrix[0] = matrix[1]
    changed = found[-1].model.probability(matrix)
    assert len(asked) == 2
    assert changed[0] == changed[1]


def test_rows_that_are_the_same_vote_together() -> None:
    matrix, event = view_columns()
    (one,) = candidates(NeighborFamily([1]), matrix, event)
    for each in np.eye(3):
        same = (matrix == each).all(axis=1)
        share = event[same].sum() / 20 / (event[same].sum() / 20 + (1 - event[same]).sum() / 20)
        assert one.model.probability(each[None])[0] == pytest.approx(share, abs=1e-6)


def test_a_row_that_is_similar_to_nothing_is_voted_on_by_all() -> None:
    for _, model in candidates(KNN, *DEGENERATE["all the same"]()):
        assert model.probability(np.full((1, 5), 0.1))[0] == pytest.approx(0.5)


@law
def test_the_order_of_the_rows_does_not_matter(size: tuple[int, int, int]) -> None:
    matrix, event = sized(size)
    order = np.random.default_rng(size[2]).permutation(len(event))
    for one, other in zip(candidates(KNN, matrix, event), candidates(KNN, matrix[order], event[order]), strict=True):
        np.testing.assert_allclose(other.model.left_out, one.model.left_out[order], atol=1e-4)


@law
def test_calling_the_event_a_non_event_turns_the_probabilities(size: tuple[int, int, int]) -> None:
    matrix, event = sized(size)
    for one, other in zip(candidates(KNN, matrix, event), candidates(KNN, matrix, 1 - event), strict=True):
        np.testing.assert_allclose(other.model.left_out, 1 - one.model.left_out, atol=1e-4)


@law
def test_units_of_the_features_do_not_matter(size: tuple[int, int, int]) -> None:
    matrix, event = sized(size)
    other = matrix * np.random.default_rng(size[2]).uniform(0.01, 100, matrix.shape[1]) + 3
    for one, two in zip(candidates(KNN, matrix, event), candidates(KNN, other, event), strict=True):
        np.testing.assert_allclose(two.model.left_out, one.model.left_out, atol=1e-4)


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_features_get_probabilities(name: str) -> None:
    check_degenerate(KNN, name)


def test_without_scaling_the_mean_is_subtracted_all_the_same() -> None:
    matrix, event = problem(40, 6, 15)
    for one, other in zip(
        candidates(KNN, matrix, event, scaling="none"),
        candidates(KNN, matrix + 1000, event, scaling="none"),
        strict=True,
    ):
        np.testing.assert_allclose(other.model.left_out, one.model.left_out, atol=1e-4)
