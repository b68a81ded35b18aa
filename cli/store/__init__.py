"""The verbs `peftbench store ls|info|verify|repair|export|prune`: one thin file each."""

import typer

from cli.store.export import export
from cli.store.info import info
from cli.store.ls import ls
from cli.store.prune import prune
from cli.store.repair import repair
from cli.store.verify import verify

app = typer.Typer(
    name="store",
    help="Look after the stores: what there is, what made it, whether it is sound, and how to take it elsewhere.",
    no_args_is_help=True,
)
app.command("ls")(ls)
app.command("info")(info)
app.command("verify")(verify)
app.command("repair")(repair)
app.command("export")(export)
app.command("prune")(prune)
