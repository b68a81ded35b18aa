"""The verb `prepare`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.console import Table, TerminalProgress, answer, reported, say
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption


def prepare(
    cohort: Annotated[str, typer.Argument(help="Name of a cohort: see `peftbench list cohorts`.")],
    raw: Annotated[
        Path | None,
        typer.Option("--raw", help="Folder of the download. Without it the phantom is generated.", show_default=False),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Bring a raw download into the workspace: manifest, decoded images, tasks.

    Run again it decodes only what is new or changed. Files that cannot be used are listed and do not stop it.
    """
    with reported(debug=debug):
        import peftbench

        with TerminalProgress() as progress:
            result = peftbench.prepare(cohort, raw, workspace=workspace, progress=progress)
        for each in result.rejected:
            say(f"rejected {each.file}: {each.reason}")
        counts = f"{result.images} images, {result.patients} patients, centres: {result.centers}"
        rows = [(name, str(each.images), str(each.patients), str(each.events)) for name, each in result.tasks.items()]
        title = f"{result.cohort}: {counts}, rejected files: {len(result.rejected)}"
        table = Table(title, ("task", ">images", ">patients", ">images with event"), rows)
        answer(result.to_json(), as_json=as_json, table=table)
