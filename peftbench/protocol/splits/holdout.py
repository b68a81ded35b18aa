"""Hold-out: one fold, a fifth tests, a fifth validates."""

from peftbench.protocol.splits.dealing import carve, salt_of
from peftbench.protocol.splits.kfold import HONEST_TEST_EVENTS, VALIDATION_SHARE, refuse_few
from peftbench.protocol.splits.split import Split, roles_of
from peftbench.protocol.splits.units import unit_centers, unit_events
from peftbench.protocol.tasks import TaskRows

TEST_SHARE = 0.2
"""Share of all patients that test in hold-out: as many as in a fold of five."""


def hold_out(rows: TaskRows, seed: int = 0) -> Split:
    """One division 60/20/20 by patient, stratified by outcome and, where there are several, by centre.

    Args:
        rows: the task's rows.
        seed: another one gives another division.

    Raises:
        SplitError: a class has fewer patients than roles.
    """
    rarer, told = refuse_few(rows)
    events, centers = unit_events(rows.frame), unit_centers(rows.frame)
    task = rows.task.name
    test = carve(events, TEST_SHARE, salt_of(seed, task, "hold-out test"), centers)
    rest = {unit: event for unit, event in events.items() if unit not in test}
    share = VALIDATION_SHARE * len(events) / len(rest)
    validation = carve(rest, share, salt_of(seed, task, "hold-out validation"), centers)
    tested = min(sum(events[unit] == event for unit in test) for event in (0, 1))
    notes: tuple[str, ...] = ()
    if tested < HONEST_TEST_EVENTS:
        notes = (f"{told}: {tested} of {rarer} is in the test part, and a score that rests on it is an anecdote",)
    return Split(task, "hold-out", seed, 1, roles_of(rows.frame, 0, test, validation), notes, ("hold-out",))
