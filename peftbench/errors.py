"""What can go wrong, as classes whose message names the thing, the value, what was expected and the next step.

The command line prints the message as it is and exits with code 2.
"""

import difflib
from collections.abc import Iterable


class PeftbenchError(Exception):
    """Base of everything this package raises on purpose."""


class UnknownNameError(PeftbenchError, ValueError):
    """A cohort, task, backbone or probe of that name does not exist."""


class RawDataError(PeftbenchError, ValueError):
    """The raw download is not as its layout says."""


class DecodeError(PeftbenchError, ValueError):
    """A picture cannot be read."""


class WorkspaceError(PeftbenchError, OSError):
    """The workspace cannot be used."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NotPreparedError(PeftbenchError, LookupError):
    """A step was asked for before the one that it builds on."""


class WeightsError(PeftbenchError, RuntimeError):
    """Pretrained weights are absent or not what they should be."""


class WeightsFolderError(WeightsError):
    """The folder of the weights cannot be written."""


class DownloadError(WeightsError):
    """A download did not come to its end."""


class StrategyError(PeftbenchError, ValueError):
    """A strategy does not fit a backbone, or did not do to it what it says."""


class DeviceError(PeftbenchError, RuntimeError):
    """The device or the precision asked for is not to be had."""


class MissingPackageError(PeftbenchError, ImportError):
    """An optional package is needed and not installed."""


class ConfigError(PeftbenchError, ValueError):
    """An option's value is out of its range, or options contradict each other."""


class SplitError(PeftbenchError, ValueError):
    """A task cannot be split as asked."""


class RecordError(PeftbenchError, ValueError):
    """A stored record is damaged or incomplete."""


def unknown_name(kind: str, name: str, known: Iterable[str], listing: str) -> UnknownNameError:
    """The error for a name that is not in a registry, with the nearest names that are.

    Args:
        kind: what the name should name, in the singular ("backbone").
        name: as it was given.
        known: all names of the registry.
        listing: the command that lists them.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    by_case = [each for each in names if each.lower() == name.lower()]
    close = by_case or difflib.get_close_matches(name, names, n=3, cutoff=0.5) or close
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(names)}."
    return UnknownNameError(f"unknown {kind} {name!r}: {hint} `{listing}` shows all.")
