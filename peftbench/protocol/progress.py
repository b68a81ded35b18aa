"""How far a long job is: a protocol, so that the rooms need not know what a terminal is."""

from typing import Protocol

from stores.lock import Wait


class Progress(Protocol):
    """Somebody who wants to know how far a job is and what it has to say."""

    def start(self, label: str, total: int) -> None:
        """A job of `total` items begins; the one before, if any, has ended."""

    def advance(self, count: int = 1) -> None:
        """So many more items of the job are done."""

    def status(self, message: str) -> None:
        """Where the job stands now; takes the place of what was said before."""

    def note(self, message: str) -> None:
        """Something that the user should read."""


class Silent:
    """Nobody."""

    def start(self, label: str, total: int) -> None:
        """Say nothing."""

    def advance(self, count: int = 1) -> None:
        """Say nothing."""

    def status(self, message: str) -> None:
        """Say nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""


def patience(told: Progress) -> Wait:
    """Wait for another writer of a store as long as it takes, say so, and stop where a progress may be stopped."""
    return Wait(told.note, lambda: told.advance(0))
