"""The verb `splits audit`."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import Table, TerminalProgress, answer, number, reported, say
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption
from cli.splits.options import SeedOption, SplitOption, TaskArgument

if TYPE_CHECKING:
    from peftbench.protocol.audit_results import AuditPair, AuditResult, SharedCounts

LEAKS = 1
"""Exit code where something leaks."""

SHOWN = 20
"""Lines of the table."""


def audit(
    task: TaskArgument,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="COHORT",
            help="Compare with this cohort; may be repeated. What is shared with it then counts for the verdict.",
            show_default="all others that are prepared, for information",
        ),
    ] = None,
    group: Annotated[
        bool | None,
        typer.Option(
            "--group/--no-group",
            help="Join the cohort's patients who share images, so that splits keep them together; or undo that.",
            show_default="as it is",
        ),
    ] = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone", help="Whose stored features to ask.", show_default="the newest that have all images"
        ),
    ] = None,
    trust_features: Annotated[
        bool,
        typer.Option("--trust-features", help="Let pairs that only the features find count, and be joined."),
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Look for leaks: patients in two roles, and the same or nearly the same image across roles or cohorts.

    Exits with 0 if nothing leaks, with 1 if anything does.
    """
    with reported(debug=debug):
        from peftbench.cohorts.audit import audit as look

        with TerminalProgress() as progress:
            found = look(
                task,
                workspace=workspace,
                against=against,
                group=group,
                split=split,
                seed=seed,
                backbone=backbone,
                trust_features=trust_features,
                progress=progress,
            )
        answer(found.to_json(), as_json=as_json, table=_table(found))
        for sentence in _closing(found):
            say(sentence)
        if not found.clean:
            raise typer.Exit(LEAKS)


def _table(found: "AuditResult") -> Table:
    """What was found, the first lines of it."""
    columns = ("kind", "sample", "patient", "other sample", "other patient", ">score", "leaks in folds")
    torn = [("two roles", "", each.unit, "", "", "", f"{each.fold}: {', '.join(each.roles)}") for each in found.torn]
    lines = [*torn, *(_line(pair, found) for pair in (*found.within, *found.across))]
    title = (
        f"{found.task}: {found.scheme}, seed {found.seed}, {found.folds} folds; {found.images:,} images of "
        f"{found.patients:,} patients"
    )
    if found.units != found.patients:
        title += f" in {found.units:,} units (patients who share images count as one)"
    return Table(title, columns, lines[:SHOWN], ("sample", "other sample"))


def _line(pair: "AuditPair", found: "AuditResult") -> tuple[str, ...]:
    turned = [word for word, true in (("mirrored", pair.mirrored), ("inverted", pair.inverted)) if true]
    within = pair.other_cohort == found.cohort
    where = pair.other_patient if within else f"{pair.other_cohort} {pair.other_patient}"
    leaks = f"{pair.folds_leaking} of {found.folds}" + (" (joined)" if pair.joined else "") if within else "-"
    return (
        ", ".join([pair.kind, *turned]), pair.sample, pair.patient, pair.other_sample, where,
        number(pair.score, 3), leaks,
    )  # fmt: skip


def _closing(found: "AuditResult") -> list[str]:
    """What else there is to say, and the verdict as the last sentence."""
    told = []
    total = len(found.torn) + len(found.within) + len(found.across)
    if total > SHOWN:
        told.append(f"and {total - SHOWN:,} more; --json lists all")
    if found.within_patient:
        told.append(f"{found.within_patient:,} pairs of copies within a patient, which is no leak")
    asked = [f"{backbone} ({cohort})" for cohort, backbone in found.backbones.items()]
    told.append(f"features: {', '.join(asked) if asked else 'none that hold all images; pixels alone were compared'}")
    told += [_shared(found.cohort, each) for each in found.shared if each.images or each.features]
    if found.grouping.written:
        told.append(
            f"joined {found.grouping.patients:,} patients in {found.grouping.groups:,} groups: splits keep them "
            f"together from now on ({found.grouping.path}; --no-group undoes it)"
        )
    if found.grouping.removed:
        told.append("patients are no longer joined")
    return [*told, _verdict(found)]


def _shared(cohort: str, each: "SharedCounts") -> str:
    doubt = f", and {each.features:,} pairs that only the features find" if each.features else ""
    return (
        f"{each.images:,} images of the task are in {each.cohort} as well ({each.identical:,} identical, {each.near:,} "
        f"nearly identical pairs{doubt}): do not train on {cohort} and test on {each.cohort}, or the other way round, "
        "without leaving these out"
    )


def _verdict(found: "AuditResult") -> str:
    apart = [pair for pair in found.within if pair.folds_leaking and pair.kind != "features"]
    hints = [pair for pair in found.within if pair.folds_leaking and pair.kind == "features"]
    met = [each.cohort for each in found.shared if each.named and (each.images or each.features)]
    if found.clean:
        doubt = f"; look at the {len(hints):,} pairs that only the features find" if hints else ""
        return f"{found.task}: nothing leaks{doubt}"
    said = [f"{found.leaking:,} leaks: the same patient or image in training and test"] if found.leaking else []
    said += [f"images shared with {', '.join(met)}"] if met else []
    mend = "; join the patients who share images with --group" if apart else ""
    return f"{found.task}: {' and '.join(said)}{mend}"
