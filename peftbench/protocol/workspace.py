"""Where things lie: every path of a workspace is a property or a method of one class."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from peftbench.errors import WorkspaceError
from stores.commit import COMMIT_FILE

ENVIRONMENT = "PEFTBENCH_WORKSPACE"
DEFAULT = Path("workspace")


@dataclass(frozen=True)
class Workspace:
    """The folder that holds all that peftbench writes.

    ```
    cohorts/<COHORT>/manifest.parquet, card.json, cohort.json, files.parquet, images/     prepare
    features/<BACKBONE>/<KEY>/                                extract
    splits/<TASK>/<SCHEME>-<DIGEST>.parquet                   probe
    results/<TASK>/<BACKBONE>/<STRATEGY>/<RUN>/               probe
    report/                                                   report
    ```
    """

    root: Path

    @classmethod
    def at(cls, root: "str | Path | Workspace | None" = None) -> "Workspace":
        """The workspace in `root`; by default what PEFTBENCH_WORKSPACE says, else `./workspace`."""
        if isinstance(root, Workspace):
            return root
        return cls(Path(root or os.environ.get(ENVIRONMENT) or DEFAULT))

    def ensure_writable(self) -> None:
        """Create the workspace's folder if need be.

        Raises:
            WorkspaceError: it cannot be created or written to.
        """
        probe = self.root / f".writable-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise WorkspaceError(
                f"the workspace {self.root} cannot be written ({error.strerror or error}): "
                f"name a folder that can with --workspace DIR or {ENVIRONMENT}"
            ) from error

    def cohort(self, cohort: str) -> Path:
        """Folder of a prepared cohort."""
        return self.root / "cohorts" / path_name(cohort)

    def manifest(self, cohort: str) -> Path:
        """The cohort's table."""
        return self.cohort(cohort) / "manifest.parquet"

    def card(self, cohort: str) -> Path:
        """What a reader should know of the cohort."""
        return self.cohort(cohort) / "card.json"

    def description(self, cohort: str) -> Path:
        """What a cohort of the user's own was described as."""
        return self.cohort(cohort) / "cohort.json"

    def ledger(self, cohort: str) -> Path:
        """Which raw files were read."""
        return self.cohort(cohort) / "files.parquet"

    def images(self, cohort: str, policy: str) -> Path:
        """The cohort's image store under a pixel policy (its digest)."""
        return self.cohort(cohort) / "images" / policy[:12]

    def raw(self, cohort: str) -> Path:
        """Where a generated cohort's raw download is written."""
        return self.root / "raw" / path_name(cohort)

    def features_of(self, backbone: str) -> Path:
        """Folder of all feature stores of a backbone."""
        return self.root / "features" / path_name(backbone)

    def features(self, backbone: str, key: str) -> Path:
        """The feature store of a backbone under a key."""
        return self.features_of(backbone) / key[:16]

    def committed_features(self, backbone: str = "*") -> list[Path]:
        """Folders of a backbone's committed feature stores; by default of all backbones."""
        name = backbone if backbone == "*" else path_name(backbone)
        found = sorted((self.root / "features").glob(f"{name}/*/{COMMIT_FILE}"))
        # Names that begin with a dot are stores under repair.
        return [path.parent for path in found if not path.parent.name.startswith(".")]

    def splits(self, task: str) -> Path:
        """Folder of a task's saved splits."""
        return self.root / "splits" / path_name(task)

    @property
    def results(self) -> Path:
        """Folder of all records."""
        return self.root / "results"

    def record(self, task: str, backbone: str, strategy: str, run: str) -> Path:
        """Folder of one record."""
        return self.results / path_name(task) / path_name(backbone) / path_name(strategy) / run

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.root / "report"


def path_name(name: str) -> str:
    """A name as one component of a path: letters, digits, dot, dash and underscore; never hidden, never empty."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.replace("/", "__")).strip(".-") or "unnamed"
