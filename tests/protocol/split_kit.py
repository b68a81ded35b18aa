"""Cohorts for the laws of splits and draws: several centres, patients who wander between them or share images."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from task_kit import TASK, manifest_frame

from peftbench.protocol.splits import UNUSED, Split, units
from peftbench.protocol.tasks import TaskRows

CENTERS = ("Aachen", "Bonn", "Celle", "Dachau", "Essen", "Fulda")


def rows_with(
    patients: Sequence[str], events: Sequence[int], centers: Sequence[str | None], **columns: Sequence[object]
) -> TaskRows:
    """The rows of a task, one for each image."""
    frame = manifest_frame(patients, center=list(centers), event=np.asarray(events, dtype=np.int64), **columns)
    return TaskRows(TASK, frame, ())


def made_up(
    seed: int, patients: int = 40, centers: int = 3, prevalence: float = 0.4, *, wander: bool = False, join: float = 0.0
) -> TaskRows:
    """A cohort of patients with one to six images, from a seed.

    Args:
        seed: of all that is random.
        patients: how many.
        centers: how many; the first is the largest.
        prevalence: share of the patients with the event, which shows in some of their images at least.
        wander: whether some patients have images in two centres.
        join: share of the patients who share images with the patient before them.
    """
    rng = np.random.default_rng(seed)
    names, events, homes, groups = [], [], [], []
    group = ""
    for number in range(patients):
        images = int(rng.integers(1, 7))
        has = int(rng.random() < prevalence)
        home = CENTERS[int(centers * rng.random() ** 1.5)]
        group = group if number and rng.random() < join else f"g-{number:03d}"
        names += [f"p-{number:03d}"] * images
        events += [has, *(has * rng.integers(0, 2, images - 1)).tolist()]
        other = CENTERS[int(rng.integers(0, centers))] if wander and rng.random() < 0.3 else home
        homes += [home, *[other] * (images - 1)]
        groups += [group] * images
    return rows_with(names, events, homes, **({"group": groups} if join else {}))


def spelt_out() -> TaskRows:
    """A cohort without anything random, for divisions and draws that are written down."""
    numbers = [number for number in range(60) for _ in range(1 + number * 7 % 5)]
    names = [f"p-{number:03d}" for number in numbers]
    events = [int(number * number % 3 == 0) for number in numbers]
    centers = [CENTERS[(number * 5 + (at % 4 == 0) * (number % 7 == 0)) % 4] for at, number in enumerate(numbers)]
    groups = [f"g-{number - (number % 10 == 1):03d}" for number in numbers]
    return rows_with(names, events, centers, group=groups)


@st.composite
def cohorts(draw: st.DrawFn, *, centers: tuple[int, int] = (1, 6)) -> TaskRows:
    """Cohorts of every kind that `made_up` makes."""
    return made_up(
        draw(st.integers(0, 10_000)),
        patients=draw(st.integers(6, 60)),
        centers=draw(st.integers(*centers)),
        prevalence=draw(st.sampled_from([0.1, 0.3, 0.5, 0.8])),
        wander=draw(st.booleans()),
        join=draw(st.sampled_from([0.0, 0.0, 0.2])),
    )


def permuted(rows: TaskRows, seed: int = 0) -> TaskRows:
    """The same rows in another order."""
    return rows._replace(frame=rows.frame.sample(frac=1, random_state=seed).reset_index(drop=True))


def roles(split: Split, rows: TaskRows) -> pd.DataFrame:
    """(unit, fold) to role; fails where a unit plays two roles in a fold."""
    unit = np.tile(units(rows.frame).to_numpy(), split.folds)
    used = split.frame.assign(unit=unit)[split.frame["role"] != UNUSED]
    found = used.groupby(["unit", "fold"])["role"].agg(["nunique", "first"])
    assert (found["nunique"] == 1).all()
    return found["first"].unstack("fold")  # noqa: PD010 - nothing to aggregate


def by_sample(split: Split) -> pd.DataFrame:
    """(sample, fold) to role."""
    return split.frame.pivot_table(index="sample_id", columns="fold", values="role", aggfunc="first")
