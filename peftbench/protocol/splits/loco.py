"""Leave one centre out: each centre tests once, on what the others taught."""

from collections.abc import Mapping

import pandas as pd

from peftbench.errors import SplitError
from peftbench.protocol.splits.dealing import carve, rarer_class, salt_of
from peftbench.protocol.splits.split import Split, roles_of, undefined_scores
from peftbench.protocol.splits.units import image_centers, unit_centers, unit_events, unit_word, units
from peftbench.protocol.tasks import TaskRows

LOCO_VALIDATION_SHARE = 0.1
"""Share of the other centres' patients that validate, as in the paper."""


def loco(rows: TaskRows, seed: int = 0) -> Split:
    """Leave one centre out: a fold a centre, in the sorted order of their names and named by them.

    A patient with images in several centres belongs wholly to the centre of the first image (see `unit_centers`);
    how many there are is said in `notes`. A tenth of the other centres' patients validate, stratified by outcome and
    centre. A centre whose patients are all of one class keeps its fold, and a note says which metrics are undefined.

    Args:
        rows: the task's rows.
        seed: of the choice of those who validate; who tests is the centre's alone.

    Raises:
        SplitError: images without a centre, fewer than two centres, or too few patients of a class outside a centre.
    """
    _refuse_unknown(rows)
    events, centers = unit_events(rows.frame), unit_centers(rows.frame)
    names = tuple(sorted(set(centers.values())))
    task = rows.task.name
    if len(names) < 2:
        raise SplitError(
            f"{task}: LOCO leaves one centre out and needs at least two, found {', '.join(map(repr, names))} alone: "
            "use --split 5-fold"
        )
    parts = []
    for fold, name in enumerate(names):
        rest = {unit: event for unit, event in events.items() if centers[unit] != name}
        _refuse_few(rows, name, rest)
        validation = carve(rest, LOCO_VALIDATION_SHARE, salt_of(seed, task, f"LOCO validation {name}"), centers)
        parts.append(roles_of(rows.frame, fold, {unit for unit, home in centers.items() if home == name}, validation))
    frame = pd.concat(parts, ignore_index=True)
    notes = (*_wanderers(rows), *undefined_scores(rows, frame, names))
    return Split(task, "LOCO", seed, len(names), frame, notes, names)


def _refuse_unknown(rows: TaskRows) -> None:
    unknown = int((image_centers(rows.frame) == "").sum())
    if unknown:
        raise SplitError(
            f"{rows.task.name}: LOCO needs to know where every image comes from, and {unknown} of {rows.images} images "
            "have no centre: exclude them, or use --split 5-fold"
        )


def _refuse_few(rows: TaskRows, center: str, rest: Mapping[str, int]) -> None:
    rarer, which = rarer_class(rest.values())
    if rarer < 2:
        raise SplitError(
            f"{rows.task.name}: {rarer} of {len(rest)} {unit_word(rows.frame)} outside centre {center!r} {which} the "
            "event, and training and validation need at least one each: use --split 5-fold"
        )


def _wanderers(rows: TaskRows) -> tuple[str, ...]:
    seen = image_centers(rows.frame).groupby(units(rows.frame)).nunique()
    many = int((seen > 1).sum())
    if not many:
        return ()
    have, each = ("has", "it") if many == 1 else ("have", "each")
    return (
        f"{rows.task.name}: {many} of {len(seen)} {unit_word(rows.frame)} {have} images in several centres; "
        f"{each} belongs wholly to the centre of the first image",
    )
