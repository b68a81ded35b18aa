"""The verb `prepare`."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.console import Table, TerminalProgress, answer, reported, say
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption

_OWN = "Your own table (`table`, `cocross`)"

_MOST_NAMED = 20
"""Rejected files that are named one by one."""


def _option(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=_OWN, show_default=False)


def prepare(
    cohort: Annotated[
        str,
        typer.Argument(
            help="Name of a cohort (`peftbench list cohorts`), or `table` for a table and images of your own."
        ),
    ],
    raw: Annotated[
        Path | None,
        typer.Option("--raw", help="Folder of the download. Without it the phantom is generated.", show_default=False),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="How samples become pixels: minmax (as the paper), window, percentile or equalize.",
            show_default="as the last time, else minmax",
        ),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            help="Longest side of the stored pixels; larger images are reduced.",
            show_default="as the last time, else 512",
        ),
    ] = None,
    max_rejected: Annotated[
        float | None,
        typer.Option(help="Share of rejected images, 0 to 1, above which it fails.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode; by default one a core.", show_default=False)
    ] = None,
    reread: Annotated[
        bool, typer.Option("--reread", help="Read every file again, also those unchanged by name, size and date.")
    ] = False,
    describe: Annotated[Path | None, _option("YAML file that describes your cohort; options add to it.")] = None,
    name: Annotated[str | None, _option("Name of your cohort; its tasks are called after it.")] = None,
    table: Annotated[list[str] | None, _option("CSV, XLSX or Parquet file in the raw folder.")] = None,
    header: Annotated[int | None, _option("Row of the table that names the columns.")] = None,
    sheet: Annotated[str | None, _option("Sheet of a workbook; by default the first.")] = None,
    images: Annotated[list[str] | None, _option("Folder of the images in the raw folder; may be repeated.")] = None,
    file: Annotated[str | None, _option("A row's file, columns in braces: '{exam}' finds exam.dcm, exam.png.")] = None,
    match: Annotated[
        str | None, _option("If a row is a patient: what of a file names it: stem, folder, dicom:PatientID.")
    ] = None,
    key: Annotated[str | None, _option("Column that --match equals; by default that of --patient.")] = None,
    path: Annotated[str | None, _option("Pattern of paths; its named groups are columns path:NAME.")] = None,
    image_id: Annotated[str | None, _option("Column that identifies an image; by default its file.", "--id")] = None,
    patient: Annotated[str | None, _option("Column that identifies a patient.")] = None,
    center: Annotated[str | None, _option("Column of the centre.")] = None,
    view: Annotated[str | None, _option("Column of the view (AP, PA, LATERAL), or dicom:ViewPosition.")] = None,
    order: Annotated[str | None, _option("Column of the date or number that orders a patient's images.")] = None,
    order_format: Annotated[list[str] | None, _option("How its dates are written, e.g. %d.%m.%Y.")] = None,
    label: Annotated[str | None, _option("Column of the outcome.")] = None,
    event: Annotated[list[str] | None, _option("Its value of the adverse outcome; may be repeated.")] = None,
    no_event: Annotated[list[str] | None, _option("Its value of the absence; may be repeated.")] = None,
    unknown: Annotated[list[str] | None, _option("Its value that is no label; may be repeated.")] = None,
    per_image: Annotated[bool, _option("Images of one patient may have different outcomes.", "--per-image")] = False,
    covariate: Annotated[list[str] | None, _option("Further column for the manifest; may be repeated.")] = None,
    keep: Annotated[list[str] | None, _option("Rows to use: COLUMN=VALUE,VALUE; may be repeated.")] = None,
    key_file: Annotated[
        Path | None,
        _option("Secret that pseudonyms of your patients are made with; by default in the raw folder.", "--key-file"),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Bring a raw download, or your own table and images, into the workspace: manifest, decoded images, tasks.

    Run again it decodes only what is new or changed. Files that cannot be used are listed and do not stop it.
    """
    with reported(debug=debug):
        import peftbench

        declared = peftbench.describe(
            cohort,
            describe,
            workspace=workspace,
            name=name,
            table=table or (),
            header=header,
            sheet=sheet,
            images=images or (),
            file=file,
            match=match,
            key=key,
            path=path,
            id=image_id,
            patient=patient,
            center=center,
            view=view,
            order=order,
            order_format=order_format or (),
            label=label,
            event=event or (),
            no_event=no_event or (),
            unknown=unknown or (),
            per_image=per_image,
            covariates=covariate or (),
            keep=keep or (),
        )
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
        for each in result.rejected[:_MOST_NAMED]:
            say(f"rejected {each.file}: {each.reason}")
        if len(result.rejected) > _MOST_NAMED:
            say(f"rejected {len(result.rejected) - _MOST_NAMED} more: --json lists all")
        for note in result.notes:
            say(f"note: {note}")
        if result.private:
            say(f"note: key and mapping of the pseudonyms stay in {result.private}: keep them, and keep them secret")
        if not as_json:
            _flow(result).show()
        answer(result.to_json(), as_json=as_json, table=_tasks(result))


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
