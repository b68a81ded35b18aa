"""Options of the verbs, as far as both doors have them: one name or several, words, and numbers with a lower bound."""

from collections.abc import Sequence

from peftbench.errors import ConfigError


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as several."""
    return (names,) if isinstance(names, str) else tuple(names)


def sizes_of(shots: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """One size of support sets or several, each once, the smallest first; None where none is asked for."""
    if shots is None:
        return None
    return tuple(sorted({shots} if isinstance(shots, int) else set(shots)))


def refuse_other(option: str, value: str, known: Sequence[str]) -> None:
    """Nothing where a word is one of those that are known.

    Raises:
        ConfigError: it is not.
    """
    if value not in known:
        *first, last = known
        words = f"{', '.join(first)} or {last}" if first else last
        raise ConfigError(f"{option} is {value!r}, expected {words}")


def refuse_below(option: str, value: int, least: int) -> None:
    """Nothing where a number is not too small.

    Raises:
        ConfigError: it is.
    """
    if value < least:
        raise ConfigError(f"{option} is {value}, expected {least} or more")
