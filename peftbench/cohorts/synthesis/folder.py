"""The folder that a cohort is written to: whole or not at all, and left alone where it is there already."""

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from peftbench.cohorts.synthesis.config import DEFAULT_PHANTOM, GENERATOR_VERSION, PhantomConfig
from peftbench.cohorts.synthesis.drawing import draw, processes_for
from peftbench.cohorts.synthesis.plan import ImagePlan, plan_cohort
from peftbench.errors import PeftbenchError
from peftbench.protocol.progress import Progress, Silent

COLUMNS = ("patient_id", "image_id", "center", "view", "day", "bits", "opacity_extent", "icu")
"""The columns of phantom.csv, in order; one row an image."""


class PhantomFolderError(PeftbenchError, ValueError):
    """The folder asked for holds something other than the phantom asked for."""


def write_phantom(folder: Path, config: PhantomConfig = DEFAULT_PHANTOM, progress: Progress | None = None) -> Path:
    """Write the cohort to `folder` and return it; a folder that already holds this very cohort is left as it is.

    Writes `phantom.csv` (COLUMNS), `images/<image_id>.png` (8 bit: mode L; 16 bit: mode I;16, values 0..4095) and
    `phantom.json` (generator, version, resolved configuration). The same configuration gives the same bytes, as long
    as numpy, scipy and Pillow are the same; in how many processes they were drawn makes no difference.

    The folder appears by one rename of a finished sibling, so a run cut short leaves no folder of this name; killed
    outright, it may leave `.<name>.<random>.partial` beside it, which nobody reads. Nothing is flushed to the disk by
    force: a power cut right after the rename may still lose data.

    Args:
        folder: absent, empty, or a folder that holds this very cohort.
        config: what the cohort is like.
        progress: told of every image drawn; of nothing where the folder is reused.

    Raises:
        PhantomFolderError: `folder` exists and holds anything but this cohort, whole.
        OSError: `folder` cannot be written.
    """
    if _holds_anything(folder):
        _require_same(folder, config)
        return folder
    place = folder.resolve()
    partial = place.with_name(f".{place.name}.{uuid4().hex}.partial")
    try:
        _write_into(partial, config, progress or Silent())
        _publish(partial, place, config)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _holds_anything(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _publish(partial: Path, folder: Path, config: PhantomConfig) -> None:
    """Rename the finished folder into place; a rival that finished the same cohort first has won, which is as good."""
    try:
        partial.rename(folder)
    except OSError:
        if not _holds_anything(folder):
            raise
        _require_same(folder, config)


def _write_into(folder: Path, config: PhantomConfig, told: Progress) -> None:
    images = folder / "images"
    images.mkdir(parents=True)
    plans = plan_cohort(config)
    rows = []
    told.start("drawing phantom", len(plans))
    with closing(draw(config, plans, processes_for(config, len(plans)))) as drawn:
        for plan, picture in zip(plans, drawn, strict=True):
            (images / f"{plan.image_id}.png").write_bytes(picture.png)
            rows.append(_csv_row(plan, picture.opacity_extent))
            told.advance()
    _write_table(folder / "phantom.csv", rows)
    (folder / "phantom.json").write_text(_identity(config), encoding="utf-8", newline="\n")


def _csv_row(plan: ImagePlan, extent: float) -> tuple[str | int | float, ...]:
    return plan.patient_id, plan.image_id, plan.center, plan.view, plan.day, plan.bits, round(extent, 5), plan.icu


def _write_table(path: Path, rows: list[tuple[str | int | float, ...]]) -> None:
    # Not with pandas: every drawing process imports this file, and would wait for it.
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def _identity(config: PhantomConfig) -> str:
    record = {"generator": "phantom", "version": GENERATOR_VERSION, "config": config.model_dump(mode="json")}
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def _require_same(folder: Path, config: PhantomConfig) -> None:
    found = _describe_difference(folder, config)
    if found:
        expected = f"a whole phantom cohort of version {GENERATOR_VERSION} with the configuration"
        raise PhantomFolderError(
            f"{folder} {found}, but {expected} {config.model_dump_json()} was expected there; "
            "choose another folder, or move this one away and run again."
        )


def _describe_difference(folder: Path, config: PhantomConfig) -> str:
    """What `folder` holds instead of this cohort, as a verb phrase; empty if it holds this cohort."""
    record = folder / "phantom.json"
    if not folder.is_dir():
        return "is a file"
    if not record.is_file():
        return "holds files but no phantom.json"
    found = record.read_text(encoding="utf-8", errors="replace")
    if found != _identity(config):
        return f"holds a phantom.json that says {' '.join(found.split())[:400]}"
    missing = [name for name in _expected_files(config) if not (folder / name).is_file()]
    return f"lacks {len(missing)} of its files ({missing[0]} for one)" if missing else ""


def _expected_files(config: PhantomConfig) -> Iterator[str]:
    yield "phantom.csv"
    yield from (f"images/{plan.image_id}.png" for plan in plan_cohort(config))
