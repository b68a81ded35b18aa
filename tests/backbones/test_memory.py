"""How much memory may still be taken, of the machine and of the container."""

import os
from pathlib import Path

import pytest

from peftbench.backbones.memory import free_memory


def machine(folder: Path, available: int | None) -> Path:
    folder.mkdir()
    lines = ["MemTotal:       99999999 kB", "MemFree:        1 kB", "HugePages_Total:       0"]
    if available is not None:
        lines.insert(2, f"MemAvailable:   {available // 1024} kB")
    (folder / "meminfo").write_text("\n".join(lines) + "\n")
    return folder


def container(folder: Path, limit: str, current: int, inactive: int = 0) -> Path:
    folder.mkdir()
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 7\ninactive_file {inactive}\nactive_file 3\n")
    return folder


class TestFreeMemory:
    def test_what_the_machine_says_is_available(self, tmp_path: Path) -> None:
        assert free_memory(machine(tmp_path / "proc", 4 << 30), tmp_path / "none") == 4 << 30

    @pytest.mark.parametrize(
        ("limit", "current", "inactive", "expected"),
        [
            (str(3 << 30), 1 << 30, 0, 2 << 30),
            # Files that were read are let go of.
            (str(3 << 30), 2 << 30, 1 << 30, 2 << 30),
            (str(100 << 30), 1 << 30, 0, 4 << 30),
            ("max", 1 << 30, 0, 4 << 30),
            ("", 1 << 30, 0, 4 << 30),
        ],
        ids=["the container has less", "with files in memory", "the machine has less", "no limit", "not understood"],
    )
    def test_a_container_may_allow_less(
        self, tmp_path: Path, limit: str, current: int, inactive: int, expected: int
    ) -> None:
        inside = container(tmp_path / "cgroup", limit, current, inactive)
        assert free_memory(machine(tmp_path / "proc", 4 << 30), inside) == expected

    def test_where_the_system_says_nothing_it_is_not_known(self, tmp_path: Path) -> None:
        assert free_memory(tmp_path / "no", tmp_path / "none") is None
        assert free_memory(machine(tmp_path / "proc", None), tmp_path / "none") is None

    def test_this_machine_has_some(self) -> None:
        found = free_memory()
        assert found is None or 0 < found <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
