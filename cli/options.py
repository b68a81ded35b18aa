"""Options that every verb has."""

from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace", envvar="PEFTBENCH_WORKSPACE", help="Folder that peftbench writes to.", show_default=True
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object as the last line of stdout; all else goes to stderr."),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

DEFAULT_WORKSPACE = Path("workspace")
