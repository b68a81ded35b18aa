"""How a fine-tuning trains: a preset, single settings on top of it, resolved and saved with the record.

Imports no torch. `paper` is what the authors' public configurations say, where they say it; `quick` is for a look at a
small data set on a small machine.
"""

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from peftbench.errors import ConfigError, unknown_name
from peftbench.imaging.augmentation import Augmentation
from peftbench.strategies.targets import Targets

Schedule = Literal["plateau", "cosine", "constant"]
Balance = Literal["loss", "sampler", "both", "none"]
ChooseBy = Literal["log-loss", "mcc"]

PAPER_BATCHES = {"AFC": 128, "AFC_m": 128, "NY_small": 128, "NY_all": 128, "CC": 64, "CAR": 32}
"""Images in a batch, by task, in the authors' configurations."""

OTHER_BATCH = 32
"""Images in a batch of a task that the paper has not."""


class Training(BaseModel):
    """How the parameters that learn are trained.

    Attributes:
        epochs: passes over the training part, at most.
        batch_size: images in a step.
        micro_batch: images in a forward pass, where a whole step does not fit into memory: gradients are accumulated.
        head_learning_rates: each has a head of its own, trained side by side; the best on validation is kept.
        learning_rate: of what learns in the backbone.
        weight_decay: of matrices; biases, norms and scaling vectors have none.
        schedule: `plateau` (the rate falls when the validation loss does not), `cosine` or `constant`.
        warmup_epochs: in which rates rise linearly.
        plateau_patience: epochs without a better validation loss after which a rate falls.
        plateau_factor: by which it falls.
        min_learning_rate: where it ends.
        early_stop: epochs without a better validation score of any head after which the training ends.
        evaluate_every: epochs from one look at the validation part to the next.
        choose_by: which epoch and head are kept: lowest balanced log loss on validation, or highest MCC.
        balance: how classes come to weigh the same: in the `loss` (a step's mean is weighted, as torch's), by the
            `sampler`, or not (`none`); `both` does it twice, so that the rarer class weighs more.
        clip: norm of the gradient at most, of the backbone and of each head; None for no limit.
        augmentation: of training images; None for none.
        targets: which layers an adapter is put on: `attention`, or `paper`, as the authors configured it.
        alpha: of LoRA, whose update is scaled by alpha / rank.
        dropout: before an adapter.
        batch_norm: whether batch norms learn `by strategy` (in full fine-tuning alone), or are `frozen`.
        checkpointing: whether activations are computed anew in the backward pass instead of being kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(ge=1, le=100_000)
    batch_size: int = Field(ge=2, le=65_536)
    micro_batch: int | None = Field(default=None, ge=1)
    head_learning_rates: tuple[float, ...] = Field(min_length=1, max_length=16)
    learning_rate: float = Field(gt=0, le=10)
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Schedule
    warmup_epochs: int = Field(ge=0)
    plateau_patience: int = Field(default=25, ge=1)
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    min_learning_rate: float = Field(default=1e-8, ge=0)
    early_stop: int = Field(ge=1)
    evaluate_every: int = Field(default=1, ge=1)
    choose_by: ChooseBy = "log-loss"
    balance: Balance = "loss"
    clip: float | None = Field(default=None, gt=0)
    augmentation: Augmentation | None
    targets: Targets = "attention"
    alpha: float = Field(default=1.0, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    batch_norm: Literal["by strategy", "frozen"] = "by strategy"
    checkpointing: bool = False

    @field_validator("head_learning_rates", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float | str) else value

    @field_validator("head_learning_rates")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        # The history tells them apart as they are printed.
        if min(value) <= 0 or max(value) > 10 or len({f"{rate:g}" for rate in value}) < len(value):
            raise ValueError("expected different rates above 0, at most 10")
        return value


_PAPER: dict[str, Any] = {
    "epochs": 1000,
    "head_learning_rates": (1e-2, 1e-3, 1e-4),
    "schedule": "plateau",
    "warmup_epochs": 50,
    "early_stop": 100,
    "augmentation": Augmentation(),
    "targets": "paper",
}

_QUICK: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 16,
    "head_learning_rates": (1e-2, 1e-3),
    "schedule": "cosine",
    "warmup_epochs": 2,
    "early_stop": 10,
    "clip": 1.0,
    "augmentation": Augmentation(),
    "alpha": 16.0,
}

PRESETS: dict[str, dict[str, Any]] = {"paper": _PAPER, "quick": _QUICK}
"""Names of `--preset`, and what they say for every task and strategy."""

RATES = {"paper": {"FFT": 1e-5, "PEFT": 1e-4}, "quick": {"FFT": 1e-4, "PEFT": 1e-3}}
"""Learning rate of the backbone: preset to kind of strategy to rate."""


def training_of(preset: str, sets: Sequence[str], strategy: str, task: str) -> Training:
    """The settings of one cell of the grid.

    Args:
        preset: `paper`, `quick`, or the path of a YAML or JSON file of settings, which may name the preset that it
            builds on as `preset`.
        sets: `key=value` each, on top; values of several numbers have commas between; `augmentation.flip=false` is one
            setting of the augmentation.
        strategy: whose learning rate is taken where none is set.
        task: whose batch size is taken under `paper`.

    Raises:
        ConfigError: a key is unknown, or a value out of its range.
        UnknownNameError: there is no such preset, nor such a file.
    """
    base, own = _based(preset)
    rate = RATES[base]["FFT" if strategy == "FFT" else "PEFT"]
    values = {"batch_size": PAPER_BATCHES.get(task, OTHER_BATCH), "learning_rate": rate, **PRESETS[base], **own}
    set_here = set()
    for each in sets:
        key, equals, text = each.partition("=")
        if not equals or not key.strip() or not text.strip():
            raise ConfigError(f"--set {each!r}: expected key=value, as in --set epochs=50")
        _put(values, key.strip(), _value(text.strip()), each)
        set_here.add(key.strip())
    try:
        return Training.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_told(error, set_here, preset)) from error


def _based(preset: str) -> tuple[str, dict[str, Any]]:
    """The name of the preset underneath, and what a file says on top of it."""
    if preset in PRESETS:
        return preset, {}
    path = Path(preset)
    if not path.is_file():
        if path.suffix:
            raise ConfigError(f"--preset {preset}: there is no such file: name one that there is, or paper or quick")
        raise unknown_name("preset", preset, PRESETS, "peftbench finetune --help")
    try:
        text = path.read_text()
        said = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        told = " ".join(str(error).replace('"<unicode string>", ', "").split())[:200]
        raise ConfigError(f"--preset {preset}: it cannot be read ({told}): expected YAML or JSON") from error
    if not isinstance(said, dict):
        found = "nothing" if said is None else f"a {type(said).__name__}"
        raise ConfigError(f"--preset {preset}: expected settings as `key: value`, found {found}")
    base = said.pop("preset", "quick")
    if not isinstance(base, str) or base not in PRESETS:
        raise ConfigError(f"--preset {preset}: {unknown_name('preset', str(base), PRESETS, 'docs/finetuning.md')}")
    return base, {key: _value(value) if isinstance(value, str) else value for key, value in said.items()}


def _put(values: dict[str, Any], key: str, value: Any, said: str) -> None:
    first, dot, rest = key.partition(".")
    if not dot:
        if isinstance(value, str) and key == "augmentation":
            raise ConfigError(f"--set {said}: expected augmentation=none, or one setting as augmentation.flip=false")
        values[key] = value
        return
    if first != "augmentation":
        raise ConfigError(f"--set {said}: {first!r} has no settings of its own, only augmentation has")
    inner = values.get("augmentation") or {}
    if not isinstance(inner, Augmentation | dict):
        raise ConfigError(f"--set {said}: the preset says augmentation={inner!r}, expected none or settings of it")
    known = inner.model_dump() if isinstance(inner, Augmentation) else inner
    values["augmentation"] = {**known, rest: value}


def _value(text: str) -> Any:
    """A value as written; pydantic makes numbers of the words."""
    if text.casefold() in {"none", "null", ""}:
        return None
    return [each.strip() for each in text.split(",") if each.strip()] if "," in text else text


_WANTED = {
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_type": "expected a whole number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "tuple_type": "expected numbers with a comma between, as in augmentation.elastic_alpha=20,40",
}
"""In the words of those who write them; other faults are told in pydantic's."""


def _told(error: ValidationError, set_here: Container[str], preset: str) -> str:
    """The first fault as a sentence."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(each) for each in fault["loc"] if not isinstance(each, int))
    said = f"--set {key}" if key in set_here or preset in PRESETS else f"--preset {preset}: {key}"
    if fault["type"] == "extra_forbidden":
        inner = "." in key
        known: Mapping[str, Any] = Augmentation.model_fields if inner else Training.model_fields
        told = unknown_name("setting", key.rpartition(".")[2], known, "docs/finetuning.md")
        return f"{said}: {told}"
    wanted = _WANTED.get(fault["type"]) or str(fault["msg"]).removeprefix("Value error, ")
    return f"{said}={_shown(fault['input'])}: {wanted[0].lower()}{wanted[1:]}"


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
