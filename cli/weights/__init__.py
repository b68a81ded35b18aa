"""The verbs `peftbench weights ls|fetch|verify|bundle|import`: one thin file each."""

import typer

from cli.weights.bundle import bundle
from cli.weights.fetch import fetch
from cli.weights.import_ import import_
from cli.weights.ls import ls
from cli.weights.verify import verify

app = typer.Typer(
    name="weights",
    help="Look after pretrained weights: what is here, how it comes here, and how to carry it to a machine without a "
    "network.",
    no_args_is_help=True,
)
app.command("ls")(ls)
app.command("fetch")(fetch)
app.command("verify")(verify)
app.command("bundle")(bundle)
app.command("import")(import_)
