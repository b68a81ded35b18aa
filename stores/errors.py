"""What can go wrong with a store, as classes that say what to do next.

Every class is both a `StoreError` and the builtin that fits, so that an outside analysis may catch either.
"""


class StoreError(Exception):
    """Base of everything this library raises on purpose."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no committed store at the path."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StoreDamagedError(StoreError, ValueError):
    """Bytes on disk disagree with the commit record or with their checksum."""


class StoreLockedError(StoreError, RuntimeError):
    """Another process is writing to the store."""


class StoreMismatchError(StoreError, ValueError):
    """The store holds something else than what is offered or asked for."""


class NotFiniteError(StoreError, ValueError):
    """An embedding holds NaN or infinity."""


class RowsMissingError(StoreError, LookupError):
    """Rows were asked for that the store does not hold."""


class RemoteError(StoreError, OSError):
    """A store on another machine cannot be reached, or something was asked of it that only a local one can do."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ExtraMissingError(StoreError, ImportError):
    """A package is needed that a plain installation does not bring."""
