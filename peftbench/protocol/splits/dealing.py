"""Ordering, dealing and carving: how names become parts.

Names are ordered by a digest of (seed, task, purpose, name), not by a generator's stream: a part depends on nothing
but those words, on any machine and under any version of numpy.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping

CLASSES = (1, 0)
"""Events first: their parts are the ones that must not be empty."""


def salt_of(seed: int, task: str, purpose: str) -> str:
    """What an order depends on beside the names."""
    return f"{seed}|{task}|{purpose}"


def shuffled(names: Iterable[str], salt: str) -> list[str]:
    """Names in an order that depends on them and the salt alone."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}|{name}".encode()).digest())


def strata(events: Mapping[str, int], centers: Mapping[str, str] | None = None) -> dict[tuple[int, str], list[str]]:
    """(class, centre) to its units; events first, then by the centre's name.

    Args:
        events: unit to class.
        centers: unit to centre; without it all are of one.
    """
    found: dict[tuple[int, str], list[str]] = {}
    for name, event in events.items():
        found.setdefault((event, centers[name] if centers else ""), []).append(name)
    return {key: found[key] for key in sorted(found, key=lambda key: (-key[0], key[1]))}


def deal(events: Mapping[str, int], parts: int, salt: str, centers: Mapping[str, str] | None = None) -> dict[str, int]:
    """Deal units to parts in turn, stratum after stratum.

    Strata follow each other in one round of dealing, so the parts' sizes differ by one at most in all, in each class,
    and in each class of each centre: every one of these is an unbroken stretch of the round.

    Args:
        events: unit to class.
        parts: how many.
        salt: what the order depends on.
        centers: unit to centre; without it all are of one.

    Returns:
        Unit to part, from 0.
    """
    order = [name for members in strata(events, centers).values() for name in shuffled(members, salt)]
    return {name: position % parts for position, name in enumerate(order)}


def carve(events: Mapping[str, int], share: float, salt: str, centers: Mapping[str, str] | None = None) -> set[str]:
    """A stratified part of the units: of each class the nearest number to `share`, at least one, never all.

    A class's number is allotted to the centres by largest remainder.

    Args:
        events: unit to class; at least two units of each class.
        share: of each class, in (0, 1).
        salt: what the choice depends on.
        centers: unit to centre; without it all are of one.
    """
    chosen: set[str] = set()
    for event in CLASSES:
        members = strata({name: each for name, each in events.items() if each == event}, centers)
        sizes = {center: len(names) for (_, center), names in members.items()}
        total = sum(sizes.values())
        wanted = allot(min(max(1, round(share * total)), total - 1), sizes)
        for (_, center), names in members.items():
            chosen.update(shuffled(names, salt)[: wanted[center]])
    return chosen


def allot(count: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Divide a number in proportion to sizes, by largest remainder (Hamilton's method), in whole numbers throughout.

    Of equal remainders the larger size comes first, then the first name; nobody gets more than its size.

    Args:
        count: to divide, at most the sum of the sizes.
        sizes: name to size.
    """
    total = sum(sizes.values())
    shares = {name: count * size // total for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: (-(count * sizes[name] % total), -sizes[name], name))
    for name in by_remainder[: count - sum(shares.values())]:
        shares[name] += 1
    return shares


def rarer_class(events: Collection[int]) -> tuple[int, str]:
    """Size of the rarer class, and how to say that units are of it."""
    with_event = sum(events)
    rarer = min(with_event, len(events) - with_event)
    return rarer, "have" if with_event == rarer else "do not have"
