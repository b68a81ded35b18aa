"""The console script `peftbench`."""

import sys

import typer

from cli.console import USER_ERROR
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
    """Run the command line; what is wrong with the words of a command is one sentence as well."""
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        told = " ".join(str(error.format_message()).split()).replace("Value error, ", "").rstrip(".")
        if not told:
            # No command at all: its help was shown.
            sys.exit(USER_ERROR)
        verb = next((word for word in sys.argv[1:2] if not word.startswith("-")), "")
        known = any(command.name == verb for command in app.registered_commands)
        sys.stderr.write(f"error: {told}: see `peftbench {f'{verb} ' if known else ''}--help`\n")
        sys.exit(USER_ERROR)
    sys.exit(code if isinstance(code, int) else 0)
