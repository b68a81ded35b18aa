"""Somebody who hears progress, for the tests of every room."""


class Ear:
    """Remembers what was expected, done and said."""

    def __init__(self) -> None:
        self.expected = 0
        self.done = 0
        self.standings: list[str] = []
        self.notes: list[str] = []

    def start(self, label: str, total: int) -> None:
        self.expected += total

    def advance(self, count: int = 1) -> None:
        self.done += count

    def status(self, message: str) -> None:
        self.standings.append(message)

    def note(self, message: str) -> None:
        self.notes.append(message)
