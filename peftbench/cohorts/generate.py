"""The verb `phantom`: a made-up raw download with a known truth, to try the other verbs on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from peftbench.errors import ConfigError, WorkspaceError
from peftbench.protocol.progress import Progress
from peftbench.protocol.results import Result

if TYPE_CHECKING:
    from peftbench.cohorts.synthesis import PhantomConfig


class PhantomResult(Result):
    """What `phantom` wrote, or found there already.

    Attributes:
        raw: the folder, for `prepare phantom --raw`.
        images: number of images.
        patients: number of patients.
        events: patients with the event.
        confounder: share of patients with the event that are AP, less that share of the others.
    """

    raw: str
    images: int
    patients: int
    events: int
    confounder: float


def phantom(
    out: str | Path,
    *,
    patients: int = 120,
    centers: int = 3,
    images_per_patient: int = 3,
    prevalence: float = 0.4,
    effect: float = 5.0,
    confounder: float = 0.0,
    size: int = 512,
    seed: int = 0,
    progress: Progress | None = None,
) -> PhantomResult:
    """Write a phantom cohort as a raw download: table, images, and the settings that it was made with.

    The same settings give the same bytes. Run again, it leaves a folder that already holds this very cohort as it is.

    Args:
        out: folder to write; absent, empty, or holding this very cohort.
        patients: number of patients, at least 6.
        centers: number of centres, 1 to 8.
        images_per_patient: most images of one patient; each has 1 to this many.
        prevalence: share of patients with the event, 0.05 to 0.95.
        effect: log odds of the event per standard deviation of severity; 0: the images do not tell the outcome.
        confounder: 0: the view is independent of the outcome; 1: every event is AP and every other patient PA.
        size: long side of the images in pixels, 64 to 4096.
        seed: seed of everything.
        progress: who is told how far it is.

    Raises:
        ConfigError: a setting is out of its range.
        PhantomFolderError: `out` holds something other than this cohort.
        WorkspaceError: `out` cannot be written.
    """
    from peftbench.cohorts.synthesis import plan_cohort, write_phantom  # noqa: PLC0415 - scipy.ndimage is slow to load

    config = _config(
        patients=patients,
        centers=centers,
        images_per_patient=images_per_patient,
        prevalence=prevalence,
        effect=effect,
        confounder=confounder,
        size=size,
        seed=seed,
    )
    try:
        folder = write_phantom(Path(out), config, progress)
    except OSError as error:
        raise WorkspaceError(
            f"the phantom cannot be written to {out} ({error.strerror or error}): "
            "name a folder that can be created, on a disk with space left"
        ) from error
    plans = plan_cohort(config)
    return PhantomResult(
        raw=str(folder),
        images=len(plans),
        patients=config.patients,
        events=len({plan.patient for plan in plans if plan.icu}),
        confounder=config.confounder,
    )


def _config(**settings: float) -> "PhantomConfig":
    from peftbench.cohorts.synthesis import PhantomConfig  # noqa: PLC0415 - scipy.ndimage is slow to load

    try:
        return PhantomConfig.model_validate(settings)
    except ValidationError as error:
        fields = PhantomConfig.model_json_schema()["properties"]
        faults = {str(each["loc"][0]): each["input"] for each in error.errors()}
        raise ConfigError("; ".join(_fault(name, value, fields[name]) for name, value in faults.items())) from error


def _fault(name: str, value: object, field: dict[str, Any]) -> str:
    """One wrong setting as part of a sentence, with the range from the field's JSON schema."""
    kind = "a whole number" if field["type"] == "integer" else "a number"
    most = f"to {field['maximum']}" if "maximum" in field else f"to below {field['exclusiveMaximum']}"
    return f"--{name.replace('_', '-')} is {value!r}, expected {kind} from {field['minimum']} {most}"
