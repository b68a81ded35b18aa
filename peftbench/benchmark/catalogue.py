"""The verb `list`: everything that can be named on the command line. Imports nothing heavy."""

from typing import Any, Literal, get_args

import pandas as pd

from peftbench.backbones.registry import CARDS
from peftbench.cohorts.registry import COHORTS, TASKS
from peftbench.errors import unknown_name
from peftbench.probing.registry import CONTROLS, PROBES
from peftbench.protocol.results import Result
from peftbench.strategies.registry import STRATEGIES

Kind = Literal["cohorts", "tasks", "backbones", "strategies", "probes"]


class Listing(Result):
    """What there is of a kind.

    Attributes:
        kind: what is listed.
        entries: one a name, with what a user chooses by.
    """

    kind: Kind
    entries: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The entries under the name of their kind."""
        return {self.kind: self.entries}

    @property
    def frame(self) -> pd.DataFrame:
        """The entries as a frame."""
        return pd.DataFrame(self.entries)


def list_names(kind: Kind) -> Listing:
    """Everything of a kind that can be named: cohorts, tasks, backbones, strategies or probes.

    Raises:
        UnknownNameError: there is no such kind.
    """
    if kind not in get_args(Kind):
        raise unknown_name("kind", kind, get_args(Kind), "peftbench list --help")
    return Listing(kind=kind, entries=_ENTRIES[kind]())


def _cohorts() -> list[dict[str, Any]]:
    return [
        {
            "name": cohort.name,
            "title": cohort.title,
            "tasks": [task.name for task in cohort.tasks],
            "raw": f"the folder that holds {cohort.table}",
            "licence": cohort.licence,
            "source": cohort.source,
        }
        for cohort in COHORTS.values()
    ]


def _tasks() -> list[dict[str, Any]]:
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
        for task in TASKS.values()
    ]


def _backbones() -> list[dict[str, Any]]:
    return [
        {
            "name": card.name,
            "family": card.family,
            "pretraining": card.pretraining,
            "parameters": card.parameters,
            "parameters_with_head": card.parameters_with_head,
            "embedding": card.embedding,
            "transform": str(card.transform),
            "licence": card.licence,
            "source": card.source,
            "notes": card.notes,
        }
        for card in CARDS.values()
    ]


def _strategies() -> list[dict[str, Any]]:
    return [card.model_dump() for card in STRATEGIES.values()]


def _probes() -> list[dict[str, Any]]:
    kinds = (("probe", PROBES), ("control", CONTROLS))
    return [{"name": name, "kind": kind, "what": what} for kind, known in kinds for name, what in known.items()]


_ENTRIES = {
    "cohorts": _cohorts,
    "tasks": _tasks,
    "backbones": _backbones,
    "strategies": _strategies,
    "probes": _probes,
}
