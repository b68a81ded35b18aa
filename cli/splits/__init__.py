"""The verbs `peftbench splits show|export|import`: one thin file each."""

import typer

from cli.splits.audit import audit
from cli.splits.export import export
from cli.splits.import_ import import_
from cli.splits.show import show

app = typer.Typer(
    name="splits",
    help="Who trains, validates and tests: look at a task's division, write it as a file, or bring your own.",
    no_args_is_help=True,
)
app.command("show")(show)
app.command("export")(export)
app.command("import")(import_)
app.command("audit")(audit)
