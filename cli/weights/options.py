"""What the verbs of `weights` have in common."""

from typing import Annotated

import typer

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...", help="Backbones, as `peftbench list backbones` names them.", show_default=False
    ),
]
