"""The verb `phantom`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, number, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write: absent, empty, or holding this very cohort.")],
    patients: Annotated[int, typer.Option(help="Number of patients, at least 6.")] = 120,
    centers: Annotated[int, typer.Option(help="Number of centres, 1 to 8.")] = 3,
    images_per_patient: Annotated[int, typer.Option(help="Most images of one patient, 1 to 64.")] = 3,
    prevalence: Annotated[float, typer.Option(help="Share of patients with the event, 0.05 to 0.95.")] = 0.4,
    effect: Annotated[
        float, typer.Option(help="Log odds of the event per SD of severity; 0: images do not tell the outcome.")
    ] = 5.0,
    confounder: Annotated[
        float, typer.Option(help="0: the view is independent of the outcome; 1: all events are AP, all others PA.")
    ] = 0.0,
    size: Annotated[int, typer.Option(help="Long side of the images in pixels, 64 to 4096.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,  # noqa: ARG001 - every verb has it
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a phantom cohort: a made-up raw download whose truth is known.

    Bring it into a workspace with `peftbench prepare phantom --raw OUT`. It is written to OUT and nowhere else:
    --workspace is taken as by every verb, and not used.
    """
    with reported(debug=debug):
        import peftbench

        with TerminalProgress() as progress:
            result = peftbench.phantom(
                out,
                patients=patients,
                centers=centers,
                images_per_patient=images_per_patient,
                prevalence=prevalence,
                effect=effect,
                confounder=confounder,
                size=size,
                seed=seed,
                progress=progress,
            )
        row = (str(result.images), str(result.patients), str(result.events), number(result.confounder), result.raw)
        columns = (">images", ">patients", ">patients with event", ">confounder", "folder")
        answer(result.to_json(), as_json=as_json, table=Table("phantom", columns, [row]))
