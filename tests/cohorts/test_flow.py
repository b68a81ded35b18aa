"""Every row is accounted for: from source to images, from images to tasks, in answer, card and print."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import imitation_aiforcovid
import imitation_cidc
import imitation_cocross
import imitation_covid19_ar
import imitation_stony_brook
import pandas as pd
import pytest
from hannover_kit import ROWS, image_file, write_hannover

from cli.prepare import _flow, _tasks
from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.registry import COHORTS
from peftbench.cohorts.synthesis import PhantomConfig, write_phantom
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.results import PrepareResult
from peftbench.protocol.tasks import rows_of
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow


def hannover(folder: Path) -> Path:
    raw = write_hannover(folder, [*ROWS, ROWS[0]])
    image_file(raw, "b0000003").write_bytes(b"")
    return raw


DOWNLOADS: dict[str, Callable[[Path], Path]] = {
    "aiforcovid": lambda raw: imitation_aiforcovid.write(raw, scale=0.01, size=8, broken=2),
    "covid19-ar": lambda raw: imitation_covid19_ar.write(raw, patients=24, size=8),
    "stony-brook": lambda raw: imitation_stony_brook.write(raw, scale=0.01),
    "cocross": lambda raw: imitation_cocross.write(raw, images=20, patients=9, size=8),
    "cidc": lambda raw: imitation_cidc.write(raw, patients=30, size=24),
    "hannover": hannover,
    "phantom": lambda raw: write_phantom(raw, PhantomConfig(patients=6, images_per_patient=2, size=64)),
}


@pytest.fixture(scope="module", params=DOWNLOADS)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PrepareResult, Workspace]:
    folder = tmp_path_factory.mktemp("flow")
    raw = DOWNLOADS[request.param](folder / "raw")
    place = Workspace(folder / "workspace")
    return prepare(request.param, raw, workspace=place, workers=1, side=32), place


def card_of(result: PrepareResult, place: Workspace) -> dict[str, Any]:
    card: dict[str, Any] = json.loads(place.card(result.cohort).read_text())
    return card


def first_number(text: str) -> int:
    found = re.match(r"\d[\d,]*", text)
    assert found, text
    return int(found[0].replace(",", ""))


def test_every_cohort_is_tried() -> None:
    assert set(DOWNLOADS) == set(COHORTS)


def test_what_is_printed_adds_up(done: tuple[PrepareResult, Workspace]) -> None:
    """The first line is a number of rows; each further line takes away or, where a row has several files, adds."""
    result, _ = done
    rows = _flow(result).rows
    heads = [0, *(number for number, (step, _) in enumerate(rows) if step.startswith("of these ")), len(rows)]
    for start, stop in pairwise(heads):
        head, *steps, last = rows[start:stop]
        begun = result.images if start else first_number(head[0])
        used = result.tasks[head[0].removeprefix("of these ")].images if start else result.images
        assert begun + sum(int(count.replace(",", "")) for _, count in steps) == used
        assert int(last[1].replace(",", "")) == used
    told = {step.removeprefix("of these ") for step, _ in rows if step.startswith("of these ")}
    assert told == {name for name, each in result.tasks.items() if each.left_out}


def test_answer_and_card_say_the_same_of_rows(done: tuple[PrepareResult, Workspace]) -> None:
    result, place = done
    card = card_of(result, place)
    flow = card["flow"]
    assert (flow["source"], flow["left_out"], flow["images"]) == (result.source, result.left_out, result.images)
    assert sum(flow["rejected"].values()) == len(result.rejected)
    frame = Manifest.read(result.cohort, place.manifest(result.cohort)).frame
    assert card["images"] == result.images == len(frame)
    assert card["patients"] == result.patients == frame["patient_id"].nunique()
    assert sum(card["centers"].values()) == frame["center"].notna().sum()
    assert len(card["centers"]) == result.centers


def test_every_tasks_exclusions_and_views_add_up(done: tuple[PrepareResult, Workspace]) -> None:
    result, place = done
    manifest = Manifest.read(result.cohort, place.manifest(result.cohort))
    for task in COHORTS[result.cohort].tasks:
        told, card = result.tasks[task.name], card_of(result, place)["tasks"][task.name]
        rows = rows_of(task, manifest)
        assert told.images + sum(told.left_out.values()) == result.images
        assert (card["images"], card["patients"], card["events"]) == (rows.images, rows.patients, rows.events)
        assert (told.images, told.patients, told.events) == (rows.images, rows.patients, rows.events)
        assert card["excluded"] == told.left_out
        views = pd.crosstab(rows.frame["view"].fillna("unknown"), rows.frame["event"])
        for view, counts in card["views"].items():
            expected = (int(views.loc[view].get(1, 0)), int(views.loc[view].get(0, 0)))
            assert (counts["event"], counts["no event"]) == told.views[view] == expected
        assert sum(event + rest for event, rest in told.views.values()) == told.images
        assert sum(event for event, _ in told.views.values()) == told.events
        centers = card["centers"].values()
        assert sum(each["event"] + each["no event"] for each in centers) == rows.images


def test_the_printed_tasks_are_those_of_the_answer(done: tuple[PrepareResult, Workspace]) -> None:
    result, _ = done
    rows = {row[0]: row for row in _tasks(result).rows}
    assert set(rows) == set(result.tasks)
    for name, told in result.tasks.items():
        assert (rows[name][1], rows[name][2]) == (f"{told.images:,}", f"{told.events:,}")
        assert all(f"{view} {event} of {event + rest}" in rows[name][4] for view, (event, rest) in told.views.items())
