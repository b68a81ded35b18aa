"""How much memory may still be taken, of the machine and of the container around this process."""

from pathlib import Path


def free_memory(machine: Path = Path("/proc"), container: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may still take, of machine and container; None where the system does not say."""
    found = [each for each in (_of_machine(machine), _of_container(container)) if each is not None]
    return min(found) if found else None


def _of_machine(folder: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in (folder / "meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _of_container(folder: Path) -> int | None:
    try:
        limit, taken = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # Files that were read count as taken, and are let go of when somebody needs the room.
        return limit - taken + int(facts.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
