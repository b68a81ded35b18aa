"""The console script `peftbench`."""

import typer

from cli.doctor import doctor
from cli.extract import extract
from cli.list import list_names
from cli.phantom import phantom
from cli.prepare import prepare
from cli.probe import probe
from cli.report import report

app = typer.Typer(
    name="peftbench",
    help="Which pretrained model, adapted how, predicts the outcome of your chest X-rays best, and is the difference "
    "real? Start with `prepare`, then `extract`, `probe`, `report`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("phantom")(phantom)
app.command("prepare")(prepare)
app.command("extract")(extract)
app.command("probe")(probe)
app.command("report")(report)
app.command("list")(list_names)
app.command("doctor")(doctor)


def main() -> None:
    """Run the command line."""
    app()
