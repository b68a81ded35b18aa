"""`store export`: stored features as a file that another tool reads, with what made them.

HDF5, Parquet and `.npy` are written by `stores.exports`. Here are the formats that need more than a plain installation,
the choice of rows, and the provenance: no path of this machine and no identifier of the raw data is in it.
"""

import importlib
import io
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from peftbench.backbones.registry import all_cards
from peftbench.cohorts.registry import COHORTS
from peftbench.errors import ConfigError, MissingPackageError, unknown_name
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.provenance import version
from peftbench.protocol.workspace import Workspace
from peftbench.store.find import Place, find_store
from peftbench.store.results import ExportResult
from stores.atomic import write_atomic
from stores.errors import RowsMissingError
from stores.exports import (
    Table,
    flat,
    npy_files,
    plain_columns,
    plain_provenance,
    write_hdf5,
    write_npy,
    write_parquet,
)
from stores.features import FeatureStore, open_features
from stores.images import KIND as IMAGES
from stores.keys import canonical_json
from stores.recipe import MAIN_OUTPUT
from stores.remote import is_remote

SAFETENSORS_HEADER = 90_000_000
"""Bytes of text that a safetensors file may begin with, with some to spare: readers refuse more than 100 million."""

_UNTRAINED = re.compile(r"(.+)-random-(\d+)")


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        suffixes: endings of its files.
        write: writes a table to a path, answers the files it wrote, the main one first.
        package: that must be installed, and the extra that brings it; empty where a plain installation will do.
        extra: of peftbench.
    """

    suffixes: tuple[str, ...]
    write: Callable[[Table, Path], list[Path]]
    package: str = ""
    extra: str = ""


def export(
    store: str | Path,
    to: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the option's name
    cohort: str | None = None,
    outputs: str | Sequence[str] | None = None,
    overwrite: bool = False,
    workspace: str | Path | Workspace | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ExportResult:
    """Write stored features as a file of another format; it is there whole or not at all.

    Args:
        store: a folder, an address, the start of a key, or a backbone of which there is one store.
        to: the file. `.npy` gets companions: NAME.OUTPUT.npy, NAME.csv, NAME.json.
        format: `hdf5`, `parquet`, `npy`, `h5ad`, `torch` or `safetensors`; by default what the file's ending says.
        cohort: take this prepared cohort's samples, in the order of its manifest and with its columns. By default all
            rows, each named by its image's digest.
        outputs: names of stored outputs; by default all. The embedding is what the format has as its one matrix.
        overwrite: replace files that are there.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        progress: who is told how far it is.
        options: of the connection to another machine, as `stores.remote.RemoteFiles` takes them.

    Raises:
        ConfigError: no such store, format or output; the file is there, or its folder is not.
        UnknownNameError: there is no such cohort.
        NotPreparedError: the cohort is not prepared in this workspace.
        RowsMissingError: some of the cohort's images have no features yet.
        MissingPackageError: the format needs a package that is not installed.
        StoreDamagedError: the store's bytes are not sound.
    """
    path, told, place = Path(to), progress or Silent(), Workspace.at(workspace)
    if is_remote(str(to)):
        raise ConfigError(f"{to} is on another machine: export to a file here, and copy it there")
    name = chosen_format(path, format)
    found = find_store(str(store), place)
    if isinstance(found, Place) and found.kind == IMAGES:
        raise ConfigError(f"{found.folder} holds images: only features are exported (`peftbench store ls`)")
    manifest = None if cohort is None else _manifest(cohort, place)
    source = open_features(found, **options) if isinstance(found, str) else FeatureStore.open(found.folder)
    backbone = _backbone(found)
    names = _outputs(source, outputs)
    _refuse_targets(path, name, names, overwrite=overwrite)
    _import_package(name)
    images = _images(source, manifest, backbone)
    told.start(f"reading {', '.join(names)}", len(names))
    matrices = {}
    for each in names:
        # In stored order nothing needs to be gathered.
        matrices[each] = source.load(None if manifest is None else images, each).matrix
        told.advance()
    table = Table(
        ids=images if manifest is None else manifest.frame["sample_id"].tolist(),
        images=images,
        outputs=matrices,
        columns=None if manifest is None else manifest.frame,
        provenance=_provenance(source, names, len(images), manifest, backbone),
    )
    told.start(f"writing {path.name}", 1)
    try:
        files = FORMATS[name].write(table, path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or error}): free some space or name another file with --to; "
            "what had its name is untouched"
        ) from error
    return ExportResult(
        path=str(path),
        files=[str(file) for file in files],
        format=name,
        rows=len(images),
        outputs={each: list(rows.shape[1:]) for each, rows in matrices.items()},
        provenance=dict(table.provenance),
    )


def chosen_format(path: Path, name: str | None) -> str:
    """Name of the format to write a file in.

    Args:
        path: of the file.
        name: as the user said it; None to go by the file's ending.

    Raises:
        ConfigError: there is no such format or ending, or the two contradict each other.
    """
    suffix = path.suffix.lower()
    by_suffix = [each for each, format_ in FORMATS.items() if suffix in format_.suffixes]
    if name is None:
        if not by_suffix:
            endings = ", ".join(each for format_ in FORMATS.values() for each in format_.suffixes)
            raise ConfigError(
                f"the ending of {path.name!r} names no format: expected one of {endings}, or a --format "
                f"({', '.join(FORMATS)})"
            )
        name = by_suffix[0]
    elif name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}: expected one of {', '.join(FORMATS)}")
    elif (by_suffix or name == "npy") and by_suffix != [name]:
        raise ConfigError(
            f"{path.name!r} does not end like the format {name!r}: expected {' or '.join(FORMATS[name].suffixes)}"
        )
    return name


def _import_package(name: str) -> None:
    """Make sure that a format can be written."""
    package, extra = FORMATS[name].package, FORMATS[name].extra
    if not package:
        return
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"writing {name} needs the package {package!r}, which cannot be imported ({error}): "
            f"pip install 'peftbench[{extra}]'"
        ) from error


def _manifest(cohort: str, place: Workspace) -> Manifest:
    path = place.manifest(cohort)
    if not path.is_file() and cohort not in COHORTS:
        prepared = [each.parent.name for each in (place.root / "cohorts").glob("*/manifest.parquet")]
        raise unknown_name("cohort", cohort, {*COHORTS, *prepared}, "peftbench list cohorts")
    return Manifest.read(cohort, path)


def _backbone(found: Place | str) -> str:
    """The backbone of a store of the workspace as `extract` takes it; empty where the place does not tell."""
    name = "" if isinstance(found, str) else found.name
    untrained = _UNTRAINED.fullmatch(name)
    if untrained and untrained[1] in all_cards():
        return f"{untrained[1]}@random:{untrained[2]}"
    return name if name in all_cards() else ""


def _outputs(store: FeatureStore, asked: str | Sequence[str] | None) -> list[str]:
    """The outputs to write, the embedding first."""
    names = list(store.outputs) if asked is None else [asked] if isinstance(asked, str) else list(asked)
    unknown = [name for name in names if name not in store.outputs]
    if unknown or not names:
        what = f"no output {unknown[0]!r}" if unknown else "no output named"
        raise ConfigError(f"{what}: the store {store.where} has {', '.join(store.outputs)}")
    return sorted(dict.fromkeys(names), key=lambda name: name != MAIN_OUTPUT)


def _refuse_targets(path: Path, name: str, outputs: list[str], *, overwrite: bool) -> None:
    """Refuse to write where there is something, or no folder to write to."""
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} of {path.name!r} does not exist: make it first, or name another")
    files = [path]
    if name == "npy":
        named = npy_files(path, outputs)
        files = [*named.outputs.values(), named.table, named.about]
    folders = [file for file in files if file.is_dir()]
    if folders:
        raise ConfigError(f"{folders[0]} is a folder: name a file to write")
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise ConfigError(f"{there[0]} exists: name another file, or replace it with --overwrite")


def _images(store: FeatureStore, manifest: Manifest | None, backbone: str) -> list[str]:
    """Image digest of each row to write."""
    if not len(store):
        raise ConfigError(f"the store {store.where} holds no rows yet: run `peftbench extract` first")
    if manifest is None:
        return store.images
    images: list[str] = manifest.frame["image_digest"].tolist()
    lacking = store.missing(images)
    if lacking:
        raise RowsMissingError(
            f"{len(lacking)} of the {len(set(images))} images of cohort {manifest.cohort!r} have no features in "
            f"{store.where}: run `peftbench extract {manifest.cohort} --backbone {backbone or 'NAME'}`, which embeds "
            "what is missing"
        )
    return images


def _provenance(
    store: FeatureStore, outputs: list[str], rows: int, manifest: Manifest | None, backbone: str
) -> dict[str, Any]:
    """What made the rows, and whose terms they come under."""
    told: dict[str, Any] = {
        "peftbench": version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "store_key": store.recipe.key,
        "store_digest": store.digest,
        "backbone": backbone or None,
        "recipe": store.recipe.to_json(),
        "outputs": {
            name: {"tensor": store.recipe.outputs[name], "shape": list(store.outputs[name])} for name in outputs
        },
        "main_output": outputs[0],
        "rows": rows,
        "cohort": None if manifest is None else manifest.cohort,
        "manifest_digest": None if manifest is None else manifest.digest,
        "licences": _licences(backbone, manifest),
    }
    return told


def _licences(backbone: str, manifest: Manifest | None) -> dict[str, str]:
    """Licence and source of weights and images, as far as the registries know them; untrained weights have none."""
    found = {}
    card = all_cards().get(backbone)
    if card is not None:
        found["weights"] = f"{card.licence}; {card.source}"
    if manifest is not None and manifest.cohort in COHORTS:
        found["images"] = f"{COHORTS[manifest.cohort].licence}; {COHORTS[manifest.cohort].source}"
    return found


def write_h5ad(table: Table, path: Path) -> list[Path]:
    """Write AnnData: the main output is `X`, the columns are `obs`, further outputs (flattened) are in `obsm`.

    `uns["peftbench"]` holds the provenance as JSON, what of it is a single value, and the shape of each output.

    Raises:
        StoreMismatchError: the parts of the table do not fit, or a column is called `image`.
    """
    import anndata  # noqa: PLC0415 - optional
    import h5py  # noqa: PLC0415

    table.checked().refuse_names(["image"])
    told = plain_provenance(table.provenance)
    told["shapes"] = canonical_json({name: list(rows.shape[1:]) for name, rows in table.outputs.items()})
    data = anndata.AnnData(
        X=flat(table.outputs[table.main]),
        obs=_observations(table),
        obsm={name: flat(rows) for name, rows in table.others.items()},
        uns={"peftbench": told},
    )
    # AnnData writes text only of this type, whatever pandas has since made its own.
    data.var.index = data.var.index.astype(object)
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        anndata.io.write_elem(file, "/", data)
    write_atomic(path, memory.getbuffer())
    return [path]


def _observations(table: Table) -> pd.DataFrame:
    """The columns as AnnData takes them."""
    columns: dict[str, Any] = {"image": pd.Series(list(table.images), dtype=object)}
    if table.columns is not None:
        plain = plain_columns(table.columns)
        for name, (_, column) in zip(plain, table.columns.items(), strict=True):
            numbers = column.dtype.kind in "iufb"
            columns[name] = column.reset_index(drop=True) if numbers else _text(plain[name])
    found = pd.DataFrame(columns)
    found.index = pd.Index(list(table.ids), dtype=object, name="id")
    found.columns = found.columns.astype(object)
    return found


def _text(values: list[Any]) -> "pd.Series[Any]":
    """Text that repeats, or is missing somewhere, as a category: what AnnData makes of it, too."""
    texts = pd.Series([None if value is None else str(value) for value in values], dtype=object)
    if texts.is_unique and texts.notna().all():
        return texts
    return pd.Series(pd.Categorical(texts, categories=pd.Index(sorted(set(texts.dropna())), dtype=object)))


def write_torch(table: Table, path: Path) -> list[Path]:
    """Write torch's own format, a dictionary that `torch.load(path, weights_only=True)` reads.

    It has `features`, `outputs` (the further ones), `ids`, `images`, `samples` (the columns, each a list) and
    `provenance`.

    Raises:
        StoreMismatchError: the parts of the table do not fit.
    """
    import torch  # noqa: PLC0415 - optional

    table.checked()
    content = {
        "features": torch.from_numpy(table.outputs[table.main]),
        "outputs": {name: torch.from_numpy(rows) for name, rows in table.others.items()},
        "ids": list(table.ids),
        "images": list(table.images),
        "samples": plain_columns(table.columns),
        "provenance": json.loads(canonical_json(dict(table.provenance))),
    }
    memory = io.BytesIO()
    torch.save(content, memory)
    write_atomic(path, memory.getbuffer())
    return [path]


def write_safetensors(table: Table, path: Path) -> list[Path]:
    """Write safetensors: the tensors `features` and `outputs.NAME`.

    The metadata hold `ids`, `images`, `samples` (the columns, each a list) and `provenance`, each as JSON.

    Raises:
        StoreMismatchError: the parts of the table do not fit.
        ConfigError: the rows have more text than the format's header can hold.
    """
    from safetensors.numpy import save  # noqa: PLC0415 - optional

    table.checked()
    metadata = {
        "ids": canonical_json(list(table.ids)),
        "images": canonical_json(list(table.images)),
        "samples": canonical_json(plain_columns(table.columns)),
        "provenance": canonical_json(dict(table.provenance)),
    }
    # JSON in JSON: every quotation mark gets a backslash.
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > SAFETENSORS_HEADER:
        raise ConfigError(
            f"{len(table.ids)} rows have {size} bytes of text, a safetensors file can hold {SAFETENSORS_HEADER}: "
            "export to .h5 or .parquet"
        )
    tensors = {"features": table.outputs[table.main]}
    tensors |= {f"outputs.{name}": rows for name, rows in table.others.items()}
    write_atomic(path, save(tensors, metadata))
    return [path]


FORMATS: dict[str, Format] = {
    "hdf5": Format((".h5", ".hdf5"), write_hdf5),
    "parquet": Format((".parquet",), write_parquet),
    "npy": Format((".npy",), write_npy),
    "h5ad": Format((".h5ad",), write_h5ad, "anndata", "formats"),
    "torch": Format((".pt",), write_torch, "torch", "models"),
    "safetensors": Format((".safetensors",), write_safetensors, "safetensors", "formats"),
}
"""By the name that `--format` takes."""
