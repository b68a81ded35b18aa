"""A cohort's card: what a reader should know before believing a score on it."""

import json
from collections import Counter
from typing import Any

import pandas as pd

from peftbench.cohorts.declaration import Cohort
from peftbench.cohorts.rows import RawRows
from peftbench.errors import NotPreparedError
from peftbench.imaging.policy import PixelPolicy
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.tasks import EmptyTaskError, Task, TaskRows, rows_of
from peftbench.protocol.workspace import Workspace
from stores.images import ImageStore

CARD_SCHEMA = 2

MANY_CENTERS = 30
"""Centres above which a task's card counts them instead of listing them."""


def flow_of(rows: RawRows, rejected: list[str], images: int) -> dict[str, Any]:
    """The flow of exclusions from the raw rows to the manifest: each step with its count."""
    return {
        "source": rows.source,
        "further_files": rows.added,
        "left_out": {each.reason: each.images for each in rows.left_out},
        "rejected": dict(sorted(Counter(rejected).items())),
        "images": images,
        "notes": rows.notes,
    }


def cohort_card(
    declared: Cohort, manifest: Manifest, flow: dict[str, Any], policy: PixelPolicy, image_store: str, key: str = ""
) -> dict[str, Any]:
    """Counts, exclusions and views by label of a prepared cohort, as JSON's types.

    Args:
        declared: the cohort.
        manifest: its table.
        flow: of exclusions, from `flow_of`.
        policy: how its files became pixels.
        image_store: name of the image store's folder.
        key: fingerprint of the key of its pseudonyms; empty where they have none.
    """
    frame = manifest.frame
    return {
        "schema": CARD_SCHEMA,
        "cohort": declared.name,
        "title": declared.title,
        "source": declared.source,
        "licence": declared.licence,
        "caveat": declared.caveat,
        "images": len(frame),
        "patients": int(frame["patient_id"].nunique()),
        "centers": {str(name): int(count) for name, count in frame["center"].value_counts().sort_index().items()},
        "flow": flow,
        "rejected": flow["rejected"],
        "shared_between_patients": shared_between_patients(manifest),
        "policy": policy.recipe,
        "pixels": policy.model_dump(),
        "image_store": image_store,
        "key": key,
        "tasks": {task.name: _task_card(task, manifest) for task in declared.tasks},
    }


def open_pictures(place: Workspace, cohort: str) -> ImageStore:
    """The image store that the cohort's card names.

    Raises:
        NotPreparedError: the card is missing or damaged.
    """
    name = str(_from_card(place, cohort, "image_store"))
    return ImageStore.open(place.images(cohort, name))


def prepared_policy(place: Workspace, cohort: str) -> tuple[PixelPolicy, str]:
    """The pixel policy that the cohort was prepared with, and its recipe as it was then.

    Raises:
        NotPreparedError: the card is missing or damaged.
    """
    said, recipe = _from_card(place, cohort, "pixels"), str(_from_card(place, cohort, "policy"))
    try:
        return PixelPolicy.model_validate(said), recipe
    except ValueError as error:
        raise NotPreparedError(
            f"the card {place.card(cohort)} names a pixel policy that this version does not know ({recipe}): run "
            f"`peftbench prepare {cohort} --raw DIR` again"
        ) from error


def _from_card(place: Workspace, cohort: str, word: str) -> Any:
    try:
        return json.loads(place.card(cohort).read_text())[word]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotPreparedError(
            f"the card {place.card(cohort)} cannot be read ({error}): run `peftbench prepare {cohort} --raw DIR` again"
        ) from error


def shared_between_patients(manifest: Manifest) -> int:
    """How many pictures (by their pixels) stand under more than one patient."""
    owners = manifest.frame[["image_digest", "patient_id"]].drop_duplicates()["image_digest"]
    return len(set(owners[owners.duplicated()]))


def by_event(rows: TaskRows, column: str) -> dict[str, dict[str, int]]:
    """Images with and without the event, by the values of a column of the manifest."""
    counts = pd.crosstab(rows.frame[column].fillna("unknown"), rows.frame["event"])
    return {
        str(value): {"event": int(row.get(1, 0)), "no event": int(row.get(0, 0))} for value, row in counts.iterrows()
    }


def _task_card(task: Task, manifest: Manifest) -> dict[str, Any]:
    try:
        rows = rows_of(task, manifest)
    except EmptyTaskError as error:
        excluded = {each.reason: each.images for each in error.exclusions if each.images}
        return {"question": task.question, "images": 0, "note": str(error), "excluded": excluded}
    centers = by_event(rows, "center")
    return {
        "question": task.question,
        "caveat": task.caveat,
        "images": rows.images,
        "patients": rows.patients,
        "events": rows.events,
        "event_patients": rows.event_patients,
        "prevalence": rows.prevalence,
        "excluded": {each.reason: each.images for each in rows.exclusions},
        "views": by_event(rows, "view"),
        "centers": centers if len(centers) <= MANY_CENTERS else {f"{len(centers)} centres": {}},
    }
