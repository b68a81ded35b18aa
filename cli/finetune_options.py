"""The options of the verb `finetune`."""

from typing import Annotated

import typer

from cli.task_options import HOW, RUNNING

_WHAT, _TRAINING = "What is adapted", "How it trains"

BackboneOption = Annotated[
    list[str],
    typer.Option(
        "--backbone",
        help="Name of a backbone, as for `extract`; its features need not be stored. May be repeated.",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]

StrategyOption = Annotated[
    list[str],
    typer.Option(
        "--strategy",
        help="lp, fft, lora, vera, bitfit or ia3; `peftbench list strategies` shows what fits. May be repeated.",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]

RankOption = Annotated[
    list[int] | None,
    typer.Option(
        "--rank", help="Of LoRA and VeRA; the paper has 4, 8, 16. May be repeated.", show_default="8",
        rich_help_panel=_WHAT,
    ),
]  # fmt: skip

ExternalOption = Annotated[
    str | None,
    typer.Option(
        help="A task of another cohort with the same outcome: train here, test there too.",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]

DrawsOption = Annotated[
    int | None,
    typer.Option(
        help="Support sets a fold and number of shots, the first of those that `probe` draws.",
        show_default="5",
        rich_help_panel=HOW,
    ),
]

PresetOption = Annotated[
    str,
    typer.Option(
        help="paper (up to 1000 epochs, as the authors configured it), quick, or a YAML or JSON file of settings.",
        rich_help_panel=_TRAINING,
    ),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A setting on top of the preset, e.g. epochs=50, head_learning_rates=1e-2,1e-3, micro_batch=8, "
        "augmentation=none, checkpointing=true (docs/finetuning.md has all). May be repeated.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=RUNNING)]

PrecisionOption = Annotated[
    str,
    typer.Option(
        help="auto (bf16 where hardware and backbone allow it, else fp32), fp32, bf16 or fp16.", rich_help_panel=RUNNING
    ),
]

CheckpointsOption = Annotated[
    str,
    typer.Option(
        help="Which to keep: all, none, or auto (all but those of full fine-tuning on support sets).",
        rich_help_panel=RUNNING,
    ),
]

TrackOption = Annotated[
    str, typer.Option(help="none, or wandb (an extra; WANDB_MODE=offline needs no network).", rich_help_panel=RUNNING)
]
