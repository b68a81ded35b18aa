"""What a record says about predicting with it: its cohort, its task's rows, how its pictures were decoded.

What cannot predict is refused here, before anything is computed. Imports no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from peftbench.cohorts.asked import task_rows
from peftbench.cohorts.card import prepared_policy
from peftbench.errors import ConfigError, RecordError
from peftbench.imaging.policy import PixelPolicy
from peftbench.protocol.elsewhere import settings_at_home
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.names import CONTROL_PREFIX, COX, TRAINED, WITH_CLINICAL
from peftbench.protocol.records import RECORD_FILE, Record, RunConfig, read_record
from peftbench.protocol.tasks import TaskRows
from peftbench.protocol.workspace import Workspace

EXPECTED = "expected what `peftbench probe --json` and `peftbench finetune --json` answer as `record`"


@dataclass(frozen=True)
class Source:
    """A record, and what lies around it.

    Attributes:
        record: complete and sound.
        folder: of the record.
        place: the workspace that holds its cohort and features.
        rows: of its task, as they are now.
        policy: how its cohort's files became pixels.
        known: digests of all pictures of its cohort.
    """

    record: Record
    folder: Path
    place: Workspace
    rows: TaskRows
    policy: PixelPolicy
    known: frozenset[str]

    @property
    def config(self) -> RunConfig:
        """All that decided the record's numbers."""
        return self.record.config

    @property
    def trained(self) -> bool:
        """Whether it was fine-tuned, and has checkpoints; else it is a probe, which is fitted again."""
        return self.config.probe == TRAINED

    @property
    def unchanged(self) -> bool:
        """Whether the task has the rows and labels that the record was made on."""
        return self.rows.digest == self.config.task_digest


def open_source(path: str | Path, workspace: str | Path | Workspace | None) -> Source:
    """A record to predict with.

    Args:
        path: of its folder, or of the `record.json` in it.
        workspace: that holds its cohort; None for the one that the record lies in.

    Raises:
        ConfigError: it is no record, lies in no workspace, or cannot predict.
        RecordError: it is damaged, or its cohort's pictures are made otherwise now.
        UnknownNameError: the workspace does not know its task.
        NotPreparedError: its cohort is not prepared in the workspace.
    """
    folder = _folder_of(Path(path).expanduser())
    record = read_record(folder)
    home = _home_of(folder, record.config)
    place = home if workspace is None else Workspace.at(workspace)
    if place is None:
        raise ConfigError(
            f"the record {folder} lies in no workspace: name the one that holds its cohort with --workspace DIR"
        )
    _refuse_unfit(record.config, home or place)
    rows = task_rows(record.config.task, place)
    manifest = Manifest.read(rows.task.cohort, place.manifest(rows.task.cohort))
    policy = _policy_of(record, rows.task.cohort, place)
    return Source(record, folder, place, rows, policy, frozenset(manifest.frame["image_digest"]))


def _folder_of(path: Path) -> Path:
    folder = path.parent if path.name == RECORD_FILE else path
    if not folder.is_dir():
        raise ConfigError(f"there is no record {path}: {EXPECTED}")
    if not (folder / RECORD_FILE).is_file():
        raise ConfigError(
            f"{path} is no record, it has no {RECORD_FILE}: {EXPECTED}; a run that was stopped has none until the same "
            "command has finished it"
        )
    return folder


def _home_of(folder: Path, config: RunConfig) -> Workspace | None:
    """The workspace in which a record's folder is where it belongs; None where there is none."""
    for each in (folder.absolute(), folder.resolve()):
        if len(each.parents) > 4 and config.folder(Workspace(each.parents[4])) == each:
            return Workspace(each.parents[4])
    return None


def _refuse_unfit(config: RunConfig, place: Workspace) -> None:
    name, task = config.backbone, config.task
    if config.external:
        raise ConfigError(f"the record is a test of {task}'s models on {config.external}: {_models_of(config, place)}")
    if name.startswith(CONTROL_PREFIX):
        raise ConfigError(f"the record is of {name}, which sees no image: name the record of a backbone")
    if name.endswith(WITH_CLINICAL):
        bare = name.removesuffix(WITH_CLINICAL)
        raise ConfigError(
            f"the record is of {name}, and pictures bring no clinical variables: name the record of {bare} alone"
        )
    if config.probe == COX:
        raise ConfigError(
            f"the record is of the probe {COX!r}, which answers hazards and no probability of an event: name the "
            "record of another probe"
        )


def _models_of(config: RunConfig, place: Workspace) -> str:
    """Where the models of a test elsewhere are found."""
    at_home = {"settings": settings_at_home(config.settings), "external": "", "external_digest": ""}
    home = config.model_copy(update=at_home).folder(place)
    if (home / RECORD_FILE).is_file():
        return f"name the record of the models themselves, {home}"
    if config.probe == TRAINED:
        return "name the record of the models themselves, which `peftbench finetune --json` answers beside it"
    return f"run `peftbench probe {config.task} --backbone {config.backbone}` without --external, and name its record"


def _policy_of(record: Record, cohort: str, place: Workspace) -> PixelPolicy:
    """The pixel policy that the record's pictures were made by, if this version still makes the same of a file.

    Raises:
        RecordError: it does not, or the cohort was prepared again by another policy.
    """
    policy, prepared = prepared_policy(place, cohort)
    # The features of a probe are found by the pictures' digests, which stand for the policy.
    recorded = record.provenance["features"]["recipe"].get("pixels", prepared)
    if policy.recipe != prepared:
        raise RecordError(
            f"the pictures of {cohort} were decoded as {prepared}, this version decodes as {policy.recipe}: prepare "
            "the cohort and make the record again"
        )
    if recorded != prepared:
        raise RecordError(
            f"the record was made on pictures decoded as {recorded}, and {cohort} is now prepared as {prepared}: "
            "prepare it as before, in another workspace if you like (--workspace DIR), or make the record again"
        )
    return policy
