"""What the tests of the families share: problems, and what it means to leave a row out."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.probing.families.family import Candidate, Family, Options

Matrix = npt.NDArray[np.float64]
Events = npt.NDArray[np.int64]
Problem = tuple[Matrix, Events]

SIZES = st.tuples(st.integers(6, 30), st.integers(1, 40), st.integers(0, 1000))


def problem(rows: int, features: int, events: int, seed: int = 0, signal: float = 1.0) -> Problem:
    """Features of unlike mean and spread, the first of which tell a little of the event."""
    random = np.random.default_rng([rows, features, events, seed])
    event = np.zeros(rows, dtype=np.int64)
    event[:events] = 1
    random.shuffle(event)
    matrix = random.normal(size=(rows, features))
    matrix[:, : max(1, features // 4)] += signal * event[:, None]
    return matrix * random.uniform(0.5, 5, size=features) + random.normal(size=features), event


def sized(size: tuple[int, int, int]) -> Problem:
    rows, features, seed = size
    return problem(rows, features, max(2, rows // 3), seed)


def law(test: Callable[..., None]) -> Callable[..., None]:
    """Check a law on random problems, with more rows than features and with fewer."""
    return settings(deadline=None, max_examples=10)(given(size=SIZES)(test))


def candidates(family: Family, matrix: Matrix, event: Events, **options: object) -> list[Candidate]:
    return list(family.candidates(matrix, event, Options(**options)))  # type: ignore[arg-type]


def without(row: int, matrix: Matrix, event: Events) -> Problem:
    return np.delete(matrix, row, axis=0), np.delete(event, row)


def view_columns(rows: int = 40) -> Problem:
    """0 and 1 in three columns, as the control sees the view."""
    random = np.random.default_rng(rows)
    return np.eye(3)[random.integers(0, 3, rows)], np.arange(rows) % 2


DEGENERATE: dict[str, Callable[[], Problem]] = {
    "four rows": lambda: problem(4, 30, 2),
    "two rows": lambda: problem(2, 5, 1),
    "one event": lambda: problem(12, 4, 1),
    "one feature": lambda: problem(20, 1, 8),
    "many features": lambda: problem(20, 2048, 8),
    "all the same": lambda: (np.full((12, 5), 0.1), np.arange(12) % 2),
    "a constant feature": lambda: (np.hstack([problem(12, 3, 5)[0], np.full((12, 1), 0.1)]), problem(12, 3, 5)[1]),
    "the view": view_columns,
    "one column that tells all": lambda: (np.repeat([[0.0], [1.0]], 6, axis=0), np.repeat([0, 1], 6)),
    "the same rows in both classes": lambda: (np.tile(np.arange(6.0)[:, None], (2, 2)), np.repeat([0, 1], 6)),
}


def check_degenerate(family: Family, name: str) -> None:
    """Every candidate answers with probabilities, also without each row and for rows it has not seen."""
    matrix, event = DEGENERATE[name]()
    for scaling in ("feature", "global", "none"):
        for _, model in candidates(family, matrix, event, scaling=scaling):
            for found in (model.probability(matrix), model.probability(matrix[:1] + 3), model.left_out):
                assert found is not None
                assert ((found >= 0) & (found <= 1)).all()
