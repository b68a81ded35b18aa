"""The console script `peftbench`."""

import sys

import typer

from cli.console import SIGNALS, USER_ERROR
from cli.doctor import doctor
from cli.extract import extract
from cli.fidelity import fidelity
from cli.finetune import finetune
from cli.list import list_names
from cli.phantom import phantom
from cli.predict import predict
from cli.prepare import prepare
from cli.probe import probe
from cli.report import report
from cli.splits import app as splits
from cli.store import app as store
from cli.weights import app as weights

app = typer.Typer(
    name="peftbench",
    help="Which pretrained model, adapted how, predicts the outcome of your chest X-rays best, and is the difference "
    "real? Start with `prepare`, then `extract`, `probe`, `finetune`, `report`, `predict`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("phantom")(phantom)
app.command("prepare")(prepare)
app.command("extract")(extract)
app.command("fidelity")(fidelity)
app.command("probe")(probe)
app.command("finetune")(finetune)
app.command("predict")(predict)
app.command("report")(report)
app.add_typer(splits)
app.add_typer(store)
app.add_typer(weights)
app.command("list")(list_names)
app.command("doctor")(doctor)


def main() -> None:
    """Run the command line; what is wrong with the words of a command is one sentence as well."""
    SIGNALS.last_command = True
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        told = " ".join(str(error.format_message()).split()).replace("Value error, ", "").rstrip(".")
        if not told:
            # No command at all: its help was shown.
            sys.exit(USER_ERROR)
        sys.stderr.write(f"error: {told}: see `{' '.join(['peftbench', *_verb(app, sys.argv[1:])])} --help`\n")
        sys.exit(USER_ERROR)
    sys.exit(code if isinstance(code, int) else 0)


def _verb(group: typer.Typer, words: list[str]) -> list[str]:
    """The verb that the words of a command begin with, with its group; empty where they begin with none."""
    first = words[0] if words else ""
    if any(command.name == first for command in group.registered_commands):
        return [first]
    for inner in group.registered_groups:
        if inner.typer_instance is not None and inner.typer_instance.info.name == first:
            return [first, *_verb(inner.typer_instance, words[1:])]
    return []
