"""What the verbs of `store` have in common."""

from typing import Annotated

import typer

StoreArgument = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="A folder, an address (s3://..., https://...), the start of a key, or a backbone with one store.",
        show_default=False,
    ),
]
StoresArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STORE]...",
        help="Folders, starts of keys, or names of backbones or cohorts; by default all of the workspace.",
        show_default=False,
    ),
]


def size(count: int) -> str:
    """Bytes for people."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] in {"B", "kB"} else f"{value:.1f} {units[0]}"


def shapes(outputs: dict[str, list[int]]) -> str:
    """Outputs for people: `embedding 1280, block_cls 4x384`."""
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in outputs.items())
