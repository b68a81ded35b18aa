"""The Cox probe: a proportional hazards model with a ridge penalty on stored features, for tasks that tell when.

For standardised features X (n, d), days t and whether the event came, it minimises

    F(b) = - sum over events i of [ x_i . b - log sum over {j: t_j >= t_i} exp(x_j . b) ] + lambda |b|^2 / 2,

the negative partial log-likelihood (Cox 1972; equal times as in Breslow 1974). As with the logistic probe the minimiser
lies in the span of the rows of X, and the penalty does not change under rotation: so X is rotated to its principal
axes, at most min(n, d) of them, which loses nothing, and whose columns, being orthogonal, are what coordinate descent
likes best. scikit-survival solves for each penalty there, some hundred times faster than its Newton method would.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from peftbench.errors import ConfigError, MissingPackageError, PeftbenchError
from peftbench.probing.clinical import Blocks
from peftbench.probing.families.scaling import principal_axes
from peftbench.protocol.survival_metrics import Concordance, concordance
from peftbench.protocol.tasks import Exclusion, TaskRows

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]

COX_SCHEMA = 1
"""Raised whenever the same features, times and split would give other risks."""

PENALTIES: tuple[float, ...] = tuple(float(f"{10.0**power:.6g}") for power in np.arange(5.0, -0.25, -0.5))
"""Values of lambda that are tried: 1e5 to 1, two a decade, the strongest first; 1 / C of the logistic probe."""

_L1_RATIO = 1e-9
"""The solver wants a grain of lasso; this one is too small to matter."""

_TOLERANCE = 1e-9

_MAX_STEPS = 10_000
"""Rounds of coordinate descent, after which a penalty counts as too weak."""


class SurvivalError(PeftbenchError, RuntimeError):
    """The Cox model could not be fitted."""


class SurvivalRows(NamedTuple):
    """What a Cox model can use of a task's rows.

    Attributes:
        positions: (n,) of the rows that are used, in the task's rows, rising.
        time: (n,) days from the film to the event, or under observation without it; positive.
        observed: (n,) whether the event came.
        exclusions: why the other rows are left out.
        images: rows of the task, those that are left out too.
    """

    positions: Positions
    time: Vector
    observed: Flags
    exclusions: tuple[Exclusion, ...]
    images: int

    @classmethod
    def of(cls, rows: TaskRows) -> Self:
        """The rows whose time is known and later than the film.

        Raises:
            ConfigError: the task tells no times, or its manifest lacks them.
        """
        told = rows.task.time
        if told is None:
            raise ConfigError(
                f"the task {rows.task.name!r} does not tell when the event came: choose a task with `time`, or declare "
                "it (docs/cohorts.md)"
            )
        absent = [column for column in told.columns if column not in rows.frame.columns]
        if absent:
            raise ConfigError(
                f"the manifest of cohort {rows.task.cohort!r} lacks the column {absent[0]!r}, which the times of the "
                f"task {rows.task.name!r} are read from: prepare the cohort again"
            )
        came = rows.frame["event"].to_numpy(dtype=np.int64) == 1
        event, censored = (rows.frame[column].to_numpy(dtype=np.float64, na_value=np.nan) for column in told.columns)
        time = np.where(came, event, censored)
        known, later = np.isfinite(time), time > 0
        reasons = {
            "the day of the event is not known": came & ~known,
            "the event came before the film or on its day": came & known & ~later,
            "not known how long the patient was under observation": ~came & ~known,
            "not under observation after the film's day": ~came & known & ~later,
        }
        left_out = tuple(Exclusion(reason, int(wrong.sum())) for reason, wrong in reasons.items() if wrong.any())
        positions = np.flatnonzero(later)
        return cls(positions, time[positions], came[positions], left_out, len(time))

    def among(self, positions: npt.ArrayLike) -> Positions:
        """Which of the rows that are used are those at these positions of the task's rows; others fall away."""
        wanted = np.zeros(self.images, dtype=bool)
        wanted[np.asarray(positions, dtype=np.int64)] = True
        return np.flatnonzero(wanted[self.positions])


class CoxFold(NamedTuple):
    """What one fold left.

    Attributes:
        validation_risk: (validation,) log hazard relative to the mean of the training features.
        test_risk: (test,) the same of the test part.
        penalty: lambda that was chosen; NaN where nothing could be fitted.
        validation_likelihood: by how much the validation part adds to the partial log-likelihood; see `cox_fold`.
        concordance: Harrell's index of the test part, or why there is none.
    """

    validation_risk: Vector
    test_risk: Vector
    penalty: float
    validation_likelihood: float
    concordance: Concordance


def cox_fold(
    features: npt.NDArray[np.floating],
    time: Vector,
    observed: Flags,
    train: Positions,
    validation: Positions,
    test: Positions,
    *,
    penalties: Sequence[float] = PENALTIES,
    scaled: bool = False,
) -> CoxFold:
    """The Cox probe on one fold; the caller limits BLAS to one thread.

    Scaling and model are learnt on the training part alone. The penalty is the one under which the validation part adds
    most to the partial log-likelihood, l(training and validation) - l(training): a few validation rows alone are hardly
    at risk together (Verweij and van Houwelingen 1993, Stat Med 12:2305). Of equals it is the strongest. The test part
    is only predicted.

    Args:
        features: (n, d), a row for each of `time`.
        time: (n,) days, positive.
        observed: (n,) whether the event came.
        train: positions of the training rows.
        validation: of the validation rows.
        test: of the test rows.
        penalties: values of lambda, falling.
        scaled: whether the features are scaled already (`Blocks`); else each is standardised.

    Raises:
        MissingPackageError: scikit-survival is not installed.
        SurvivalError: no penalty of the path leads to a solution.
    """
    if not observed[train].any():
        reason = f"the event came in none of the {len(train)} rows of the training part"
        nothing = (np.zeros(len(validation)), np.zeros(len(test)))
        return CoxFold(*nothing, float("nan"), float("nan"), Concordance(float("nan"), 0, reason))
    wide = np.asarray(features, dtype=np.float64)
    # Their mean cancels in a partial likelihood, and the rotation wants it gone.
    parts = _standardised(wide, train, validation, test) if not scaled else _centred(wide, train, validation, test)
    both = np.concatenate([train, validation])
    chosen = (float("nan"), np.zeros(wide.shape[1]), -np.inf)
    for penalty, coefficient in fit_path(parts[0], time[train], observed[train], penalties):
        risk = np.concatenate([parts[0] @ coefficient, parts[1] @ coefficient])
        alone = partial_likelihood(time[train], observed[train], risk[: len(train)])
        gain = partial_likelihood(time[both], observed[both], risk) - alone
        chosen = (penalty, coefficient, gain) if gain > chosen[2] else chosen
    validation_risk, test_risk = (np.asarray(part @ chosen[1], dtype=np.float64) for part in parts[1:])
    judged = _judged(time[test], observed[test], test_risk)
    return CoxFold(validation_risk, test_risk, chosen[0], chosen[2], judged)


def _standardised(features: Matrix, *parts: Positions) -> list[Matrix]:
    blocks = Blocks.fit(features[parts[0]], None)
    return [blocks.apply(features[positions], None) for positions in parts]


def _centred(features: Matrix, *parts: Positions) -> list[Matrix]:
    mean = features[parts[0]].mean(axis=0)
    return [features[positions] - mean for positions in parts]


def _judged(time: Vector, observed: Flags, risk: Vector) -> Concordance:
    if not len(time):
        return Concordance(float("nan"), 0, "no row of the test part has a time after the film")
    return concordance(time, observed, risk)


def fit_path(
    features: Matrix, time: Vector, observed: Flags, penalties: Sequence[float] = PENALTIES
) -> Iterator[tuple[float, Vector]]:
    """Solve for every penalty of a path, from strong to weak, one as it is asked for.

    It ends before a penalty so weak that the solver does not arrive.

    Args:
        features: (n, d), centred.
        time: (n,) days.
        observed: (n,) whether the event came; in one row at least.
        penalties: values of lambda, falling.

    Returns:
        Each penalty with its (d,) coefficients.

    Raises:
        ValueError: the penalties are not positive and falling.
        MissingPackageError: scikit-survival is not installed.
        SurvivalError: no penalty leads to a solution.
    """
    path = np.asarray(penalties, dtype=np.float64)
    if not path.size or path[-1] <= 0 or (np.diff(path) >= 0).any():
        raise ValueError(f"penalties must be positive and falling, got {list(penalties)}")
    return _solutions(features, time, observed, path)


def _solutions(features: Matrix, time: Vector, observed: Flags, path: Vector) -> Iterator[tuple[float, Vector]]:
    axes = _principal_axes(features)
    rotated = features @ axes
    for place, penalty in enumerate(path.tolist()):
        # Features of one value each have no axis, and no weight.
        found = _coxnet(rotated, time, observed, penalty / len(time)) if axes.shape[1] else np.zeros(0)
        if found is None and not place:
            raise SurvivalError(f"the Cox model of {len(time)} rows with {int(observed.sum())} events has no solution")
        if found is None:
            return
        yield penalty, axes @ found


def _principal_axes(features: Matrix) -> Matrix:
    """(d, r) orthonormal axes that span the rows."""
    axes, energy = principal_axes(features)
    return np.asarray(features.T @ (axes / np.sqrt(energy)))


def _coxnet(features: Matrix, time: Vector, observed: Flags, strength: float) -> Vector | None:
    """(d,) coefficients; None where the penalty is too weak for the solver.

    One penalty at a time: given a path, the solver ends it as soon as the likelihood hardly rises from one penalty to
    the next, which with few events is so at its strong end already.
    """
    solver, labelled, unfinished = _solver()
    model = solver(alphas=[strength], l1_ratio=_L1_RATIO, tol=_TOLERANCE, max_iter=_MAX_STEPS)
    with warnings.catch_warnings():
        # That the strongest penalty leaves next to nothing is what it is for.
        warnings.filterwarnings("ignore", message="all coefficients are zero")
        warnings.simplefilter("error", unfinished)
        try:
            model.fit(features, labelled(observed, time))
        except (ArithmeticError, AssertionError, unfinished):
            return None
    return np.asarray(model.coef_[:, 0], dtype=np.float64)


def _solver() -> tuple[Any, Any, type[Warning]]:
    """Of scikit-survival: the solver, what it takes times as; and the warning of one that did not arrive."""
    try:
        from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - slow to import, needed here alone
        from sksurv.linear_model import CoxnetSurvivalAnalysis  # noqa: PLC0415
        from sksurv.util import Surv  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackageError(
            "the Cox probe needs scikit-survival: install it with pip install 'peftbench[survival]'"
        ) from error
    return CoxnetSurvivalAnalysis, Surv.from_arrays, ConvergenceWarning


def partial_likelihood(time: Vector, observed: Flags, risk: Vector) -> float:
    """Cox's partial log-likelihood, equal times as in Breslow (1974).

    Args:
        time: (n,) days.
        observed: (n,) whether the event came.
        risk: (n,) log hazards, up to a constant.
    """
    order = np.argsort(-time, kind="stable")
    days, came, score = time[order], observed[order], risk[order]
    at_risk = np.logaddexp.accumulate(score)
    # Of equal times all are at risk: the sum up to the last of them counts.
    last = np.searchsorted(-days, -days, side="right") - 1
    return float((score - at_risk[last])[came].sum())
