"""The verb `prepare`."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from cli import prepare_options as options
from cli.console import Table, TerminalProgress, answer, reported, say
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from peftbench.cohorts.describe import Options

_MOST_NAMED = 20
"""Rejected files that are named one by one."""


def prepare(
    cohort: options.Cohort,
    raw: options.Raw = None,
    policy: options.Policy = None,
    side: options.Side = None,
    max_rejected: options.MaxRejected = None,
    workers: options.Workers = None,
    reread: options.Reread = False,
    describe: options.Describe = None,
    name: options.Name = None,
    table: options.Table = None,
    header: options.Header = None,
    sheet: options.Sheet = None,
    images: options.Images = None,
    file: options.File = None,
    match: options.Match = None,
    key: options.Key = None,
    path: options.PathPattern = None,
    image_id: options.ImageId = None,
    patient: options.Patient = None,
    center: options.Center = None,
    view: options.View = None,
    order: options.Order = None,
    order_format: options.OrderFormat = None,
    label: options.Label = None,
    event: options.Event = None,
    no_event: options.NoEvent = None,
    unknown: options.Unknown = None,
    per_image: options.PerImage = False,
    covariate: options.Covariate = None,
    clinical: options.Clinical = None,
    keep: options.Keep = None,
    key_file: options.KeyFile = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Bring a raw download, or your own table and images, into the workspace: manifest, decoded images, tasks.

    Run again it decodes only what is new or changed. Files that cannot be used are listed and do not stop it.
    """
    with reported(debug=debug):
        import peftbench

        own: Options = {
            "name": name, "table": table, "header": header, "sheet": sheet, "images": images, "file": file,
            "match": match, "key": key, "path": path, "id": image_id, "patient": patient, "center": center,
            "view": view, "order": order, "order_format": order_format, "label": label, "event": event,
            "no_event": no_event, "unknown": unknown, "per_image": per_image, "covariates": covariate,
            "clinical": clinical, "keep": keep,
        }  # fmt: skip
        declared = peftbench.describe(cohort, describe, workspace=workspace, **own)
        with TerminalProgress() as progress:
            result = peftbench.prepare(
                declared,
                raw,
                workspace=workspace,
                policy=policy,
                side=side,
                max_rejected=max_rejected,
                workers=workers,
                key_file=key_file,
                reread=reread,
                progress=progress,
            )
        _tell(result)
        if not as_json:
            _flow(result).show()
        answer(result.to_json(), as_json=as_json, table=_tasks(result))


def _tell(result: Any) -> None:
    """Rejected files and whatever else was noticed."""
    for each in result.rejected[:_MOST_NAMED]:
        say(f"rejected {each.file}: {each.reason}")
    if len(result.rejected) > _MOST_NAMED:
        say(f"rejected {len(result.rejected) - _MOST_NAMED} more: --json lists all")
    for note in result.notes:
        say(f"note: {note}")
    if result.private:
        say(f"note: key and mapping of the pseudonyms stay in {result.private}: keep them, and keep them secret")


def _flow(result: Any) -> Table:
    """From the raw rows to the images, and on to those of each task, a line a step."""
    steps = [(result.source, "")]
    if result.further_files:
        steps.append(("  further files of a series", f"+{result.further_files:,}"))
    steps += [(f"  {reason}", f"-{count:,}") for reason, count in result.left_out.items()]
    rejected = Counter(each.reason for each in result.rejected)
    steps += [(f"  rejected: {reason}", f"-{count:,}") for reason, count in rejected.most_common()]
    steps.append((f"images of {result.patients:,} patients, centres: {result.centers}", f"{result.images:,}"))
    for name, each in result.tasks.items():
        if each.left_out:
            steps.append((f"of these {name}", ""))
            steps += [(f"  {reason}", f"-{count:,}") for reason, count in each.left_out.items()]
            steps.append((f"  images of {each.patients:,} patients", f"{each.images:,}"))
    return Table(f"{result.cohort}: what was found, and what is used", ("step", ">images"), steps)


def _tasks(result: Any) -> Table:
    """A line a task; views by label, so that a view that gives the outcome away is seen."""
    rows = []
    for name, each in result.tasks.items():
        views = "; ".join(f"{view} {event:,} of {event + rest:,}" for view, (event, rest) in each.views.items())
        of_patients = f"{each.event_patients:,} of {each.patients:,}"
        rows.append((name, f"{each.images:,}", f"{each.events:,}", of_patients, views or "-"))
    columns = ("task", ">images", ">with event", ">patients with event", "with event by view")
    title = f"{result.cohort}: {result.images:,} images, {result.patients:,} patients, rejected: {len(result.rejected)}"
    return Table(title, columns, rows, whole=("task",))
