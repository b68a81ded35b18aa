"""The verb `list`: everything that can be named on the command line. Imports nothing heavy."""

from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from pydantic import Field

from peftbench.backbones.card import BackboneCard
from peftbench.backbones.locating import locate
from peftbench.backbones.plugins import plugged_in
from peftbench.backbones.registry import all_cards, parse_backbone
from peftbench.cohorts.declaration import Cohort
from peftbench.cohorts.registry import known_cohorts, known_tasks
from peftbench.errors import MissingPackageError, UnknownNameError, WeightsError, unknown_name
from peftbench.probing.registry import CONTROLS, PROBES, SETS, SURVIVAL, classical_titles
from peftbench.protocol.results import Result
from peftbench.protocol.workspace import Workspace
from peftbench.strategies.matrix import Row, canonical, matrix_rows
from peftbench.strategies.registry import STRATEGIES

Kind = Literal["cohorts", "tasks", "backbones", "strategies", "probes"]


class Listing(Result):
    """What there is of a kind.

    Attributes:
        kind: what is listed.
        entries: one a name, with what a user chooses by; of a single name, all that is known.
        faults: what could not be listed, and why: plug-ins that are broken.
    """

    kind: Kind
    entries: list[dict[str, Any]]
    faults: list[str] = Field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The entries under the name of their kind."""
        return {self.kind: self.entries, **({"faults": self.faults} if self.faults else {})}

    @property
    def frame(self) -> pd.DataFrame:
        """The entries as a frame."""
        return pd.DataFrame(self.entries)


def list_names(kind: Kind, name: str | None = None, *, workspace: str | Path | Workspace | None = None) -> Listing:
    """Everything of a kind that can be named: cohorts, tasks, backbones, strategies or probes.

    Args:
        kind: what to list.
        name: only this one. Of a backbone that is the whole card, also of a model that is not registered
            (`timm:resnet50`). Of the strategies it may also be a backbone: how many of its parameters they train.
        workspace: whose own cohorts are listed as well; by default PEFTBENCH_WORKSPACE, else `./workspace`.

    Raises:
        UnknownNameError: there is no such kind, or nothing of that name.
        MissingPackageError: parameters are to be counted, and torch is not installed.
    """
    if kind not in get_args(Kind):
        raise unknown_name("kind", kind, get_args(Kind), "peftbench list --help")
    if kind == "backbones":
        faults = list(plugged_in().faults)
        return Listing(kind=kind, entries=_backbones() if name is None else [_whole_card(name)], faults=faults)
    if kind == "strategies":
        return Listing(kind=kind, entries=_strategies() if name is None else _of_strategies(name))
    place = Workspace.at(workspace)
    entries = _probes() if kind == "probes" else {"cohorts": _cohorts, "tasks": _tasks}[kind](place)
    if name is not None:
        by_name = {each["name"]: each for each in entries}
        if name not in by_name:
            raise unknown_name(kind.removesuffix("s"), name, by_name, f"peftbench list {kind}")
        entries = [by_name[name]]
    return Listing(kind=kind, entries=entries)


def _cohorts(place: Workspace) -> list[dict[str, Any]]:
    return [
        {
            "name": cohort.name,
            "title": cohort.title,
            "tasks": [task.name for task in cohort.tasks],
            "raw": _raw(cohort),
            "licence": cohort.licence,
            "source": cohort.source,
        }
        for cohort in known_cohorts(place).values()
    ]


def _raw(cohort: Cohort) -> str:
    if cohort.name == "phantom":
        return "nothing: it is generated"
    also = f" and the index {cohort.index}" if cohort.index is not None else ""
    return f"the folder that holds {cohort.table}{also}"


def _tasks(place: Workspace) -> list[dict[str, Any]]:
    return [
        {
            "name": task.name,
            "cohort": task.cohort,
            "question": task.question,
            "event": task.outcome,
            "unit": task.unit,
            "scheme": task.scheme,
            "caveat": task.caveat,
        }
        for task in known_tasks(place).values()
    ]


def _backbones() -> list[dict[str, Any]]:
    return [
        {
            "name": card.name,
            "family": card.family,
            "pretraining": card.pretraining,
            "data": card.data,
            "parameters": card.parameters,
            "parameters_with_head": card.parameters_with_head,
            "embedding": card.embedding,
            "strategies": list(card.strategies),
            "transform": str(card.transform),
            "licence": card.licence,
            "source": card.source,
            "weights": _weights(card)["weights"],
            "notes": card.notes,
        }
        for card in all_cards().values()
    ]


def _whole_card(name: str) -> dict[str, Any]:
    card = parse_backbone(name).card
    return {**card.to_json(), **_weights(card)}


def _weights(card: BackboneCard) -> dict[str, Any]:
    """Whether the pretrained weights are on this machine, and what is recorded of them; asks no network."""
    if card.checkpoint is None:
        return {"weights": "by the library" if card.found_by else "none"}
    try:
        found = locate(card)
    except WeightsError as error:
        return {"weights": "damaged", "fault": str(error)}
    if found is None or found.record is None:
        return {"weights": "absent" if found is None else "here"}
    record = found.record
    facts = {"weights_sha256": record.source_sha256, "revision": record.revision, "fetched": record.fetched}
    return {"weights": "here", **facts}


def _strategies() -> list[dict[str, Any]]:
    """The strategies, each with the backbones that it fits, where it is an extension, and where it is refused."""
    rows = matrix_rows()
    return [{**card.model_dump(), **_fits(name, rows)} for name, card in STRATEGIES.items()]


def _fits(strategy: str, rows: list[Row]) -> dict[str, Any]:
    found = {row.backbone: row.standings[strategy] for row in rows}
    return {
        "backbones": [name for name, each in found.items() if each.verdict == "paper"],
        "extensions": {name: each.reason for name, each in found.items() if each.verdict == "extension"},
        "refused": {name: each.reason for name, each in found.items() if each.verdict == "refused"},
    }


def _of_strategies(name: str) -> list[dict[str, Any]]:
    """One strategy, or all of them on one backbone."""
    if name.lower() in {each.lower() for each in STRATEGIES}:
        return [each for each in _strategies() if each["name"] == canonical(name)]
    try:
        card = parse_backbone(name).card
    except UnknownNameError as error:
        if ":" in name:
            raise
        known = [*STRATEGIES, *all_cards()]
        raise unknown_name("strategy or backbone", name, known, "peftbench list strategies") from error
    return _counts(card)


def _counts(card: BackboneCard) -> list[dict[str, Any]]:
    try:
        from peftbench.strategies.counting import count_all  # noqa: PLC0415 - imports torch
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"to count what learns of {card.name!r} its architecture is built, and the package {error.name!r} is not "
            "installed: pip install 'peftbench[models,offline]'"
        ) from error
    return [{"backbone": card.name, **each._asdict()} for each in count_all(card)]


def _probes() -> list[dict[str, Any]]:
    kinds = (
        ("probe", PROBES),
        ("classical", classical_titles()),
        ("survival", SURVIVAL),
        ("set", SETS),
        ("control", CONTROLS),
    )
    return [{"name": name, "kind": kind, "what": what} for kind, known in kinds for name, what in known.items()]
