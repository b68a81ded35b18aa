"""All probes and controls by name. Imports none of them: what a probe needs is imported when it is asked for."""

from collections.abc import Iterable
from importlib import import_module

from peftbench.errors import unknown_name
from peftbench.probing.families.family import Family
from peftbench.protocol.names import (
    CENTER_CONTROL,
    CLINICAL_CONTROL,
    COX,
    IMAGES_CONTROL,
    LOGISTIC,
    METADATA_CONTROL,
    VIEW_CONTROL,
)

PROBES: dict[str, str] = {
    LOGISTIC: "L2-regularised logistic regression, balanced classes, C chosen on validation: the LP",
    "ridge": "ridge regression on the classes, exact leave-one-out, strength chosen on validation",
    "knn": "nearest neighbours by cosine, votes weighted by softmax, number chosen on validation",
    "centroid": "nearest class mean, with or without centring, chosen on validation",
}
"""Probes of the benchmark's own."""

SETS: dict[str, str] = {
    "classical": "all classifiers of the classical set",
    "all": "the benchmark's own probes and the classical set",
}
"""Names that stand for several."""

SURVIVAL: dict[str, str] = {
    COX: "Cox proportional hazards with a ridge penalty, for tasks that tell times; needs the extra `survival`",
}
"""Probes of the time to an event."""

_OWN = {
    LOGISTIC: "peftbench.probing.families.logistic:LOGISTIC",
    "ridge": "peftbench.probing.families.ridge:RIDGE",
    "knn": "peftbench.probing.families.knn:KNN",
    "centroid": "peftbench.probing.families.centroid:CENTROID",
}

CONTROLS: dict[str, str] = {
    VIEW_CONTROL: "the same probe on the view (AP, PA) alone",
    CENTER_CONTROL: "the same probe on the centre alone, where there are several and all of them train",
    IMAGES_CONTROL: "the same probe on the number of images that the cohort has of the patient",
    METADATA_CONTROL: "the same probe on view, centre and number of images together",
    CLINICAL_CONTROL: "the same probe on clinical variables alone, with `--with clinical`",
}
"""What runs beside every probe, as far as it differs among the task's rows, unless --no-control."""


def classical_names() -> list[str]:
    """Names of the classical set."""
    from peftbench.probing.families.classical import CLASSICAL  # noqa: PLC0415 - a long table, seldom asked for

    return list(CLASSICAL)


def classical_titles() -> dict[str, str]:
    """Names of the classical set, and what each is."""
    from peftbench.probing.families.classical import CLASSICAL  # noqa: PLC0415 - as above

    return {name: each.title for name, each in CLASSICAL.items()}


def expand(names: Iterable[str]) -> list[str]:
    """Names of probes with those of sets replaced by their members, each once.

    Raises:
        UnknownNameError: there is no such probe.
    """
    found: list[str] = []
    for name in names:
        if name in PROBES or name in SURVIVAL or "." in name or ":" in name:
            found.append(name)
        elif name == "classical":
            found += classical_names()
        elif name == "all":
            found += [*PROBES, *classical_names()]
        elif name in classical_names():
            found.append(name)
        else:
            raise unknown_name("probe", name, [*PROBES, *SETS, *SURVIVAL, *classical_names()], "peftbench list probes")
    return list(dict.fromkeys(found))


def family_of(name: str) -> Family:
    """The family of a probe; of a name with a dot or a colon, the user's own estimator.

    Raises:
        UnknownNameError: there is no such probe.
        ConfigError: the user's own estimator cannot be made.
    """
    if name in _OWN:
        module, attribute = _OWN[name].split(":")
        found: Family = getattr(import_module(module), attribute)
        return found
    if "." in name or ":" in name:
        from peftbench.probing.families.custom import parse_estimator  # noqa: PLC0415 - imports scikit-learn

        return parse_estimator(name)
    from peftbench.probing.families.classical import CLASSICAL  # noqa: PLC0415 - a long table, seldom asked for

    if name not in CLASSICAL:
        raise unknown_name("probe", name, [*PROBES, *CLASSICAL], "peftbench list probes")
    return CLASSICAL[name]
