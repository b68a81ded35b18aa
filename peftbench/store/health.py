"""`store verify` and `store repair`: is it sound, and if not, what can be kept."""

import time
from collections.abc import Sequence
from pathlib import Path

from peftbench.protocol.progress import Progress, Silent, patience
from peftbench.protocol.workspace import Workspace
from peftbench.store.find import Place, chosen_stores
from peftbench.store.results import RepairResult, StoreFault, StoreRepair, StoreVerdict, VerifyResult
from stores.errors import StoreError
from stores.repair import repair as repair_store
from stores.verify import Fault, Verdict
from stores.verify import verify as verify_store


def verify(
    store: str | Path | Sequence[str | Path] = (),
    *,
    deep: bool = False,
    workspace: str | Path | Workspace | None = None,
    progress: Progress | None = None,
) -> VerifyResult:
    """Look for damage; changes nothing.

    Args:
        store: folder, start of a key, or name of a store, or several; by default all of the workspace.
        deep: read every byte and hold it against its checksums; else presence, sizes and records.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        progress: who is told how far it is.

    Raises:
        ConfigError: there is no such store.
    """
    places, told = _chosen(store, workspace), progress or Silent()
    told.start("verifying", len(places))
    verdicts = []
    for place in places:
        start = time.perf_counter()
        try:
            found = verify_store(place.folder, deep=deep)
        except StoreError as error:
            # The others are looked at all the same.
            found = [Verdict(place.folder, place.kind, 0, 0, [Fault(str(error))])]
        seconds = time.perf_counter() - start
        verdicts += [
            StoreVerdict(
                path=str(each.folder),
                kind=each.kind or place.kind,
                rows=each.rows,
                deep=deep,
                sound=not each.faults,
                faults=_told(each.faults),
                seconds=seconds,
                bytes_read=each.bytes,
            )
            for each in found
        ]
        told.advance()
    return VerifyResult(sound=all(each.sound for each in verdicts), stores=verdicts)


def repair(
    store: str | Path | Sequence[str | Path] = (),
    *,
    workspace: str | Path | Workspace | None = None,
    progress: Progress | None = None,
) -> RepairResult:
    """Drop the rows that are damaged and keep all others; `extract` or `prepare` then make just these again.

    Waits where another process is writing.

    Args:
        store: folder, start of a key, or name of a store, or several; by default all of the workspace.
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        progress: who is told how far it is.

    Raises:
        ConfigError: there is no such store.
    """
    places, told = _chosen(store, workspace), progress or Silent()
    told.start("repairing", len(places))
    repairs = []
    for place in places:
        try:
            done = repair_store(place.folder, patience(told))
        except StoreError as error:
            fault = StoreFault(what=str(error), rows=None)
            repairs.append(StoreRepair(path=str(place.folder), kept=0, dropped=0, mended=False, faults=[fault]))
            done = []
        repairs += [
            StoreRepair(
                path=str(each.folder), kept=each.kept, dropped=each.dropped, mended=True, faults=_told(each.faults)
            )
            for each in done
        ]
        told.advance()
    return RepairResult(stores=repairs)


def _chosen(store: str | Path | Sequence[str | Path], workspace: str | Path | Workspace | None) -> list[Place]:
    texts = [store] if isinstance(store, str | Path) else list(store)
    return chosen_stores([str(each) for each in texts], Workspace.at(workspace))


def _told(faults: Sequence[Fault]) -> list[StoreFault]:
    return [StoreFault(what=each.what, rows=list(each.rows) if each.rows else None) for each in faults]
