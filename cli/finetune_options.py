"""The options of the verb `finetune`."""

from typing import Annotated

import typer

_WHAT, _HOW, _TRAINING, _RUN = "What is adapted", "How much trains", "How it trains", "Running"

TaskArgument = Annotated[list[str], typer.Argument(help="Name or names of tasks: see `peftbench list tasks`.")]

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

SplitOption = Annotated[
    str | None,
    typer.Option(
        help="5-fold, LOCO (leave one centre out), hold-out, or the name of an imported split.",
        show_default="the task's own",
        rich_help_panel=_HOW,
    ),
]

RegimeOption = Annotated[str, typer.Option(help="full, reduced, few-shot, or center-few-shot.", rich_help_panel=_HOW)]

ShotsOption = Annotated[
    str | None,
    typer.Option(
        help="Images a class (and centre), separated by commas; images in all of `reduced`.",
        show_default="2,4,8,16,32 as far as there are so many; reduced: 256",
        rich_help_panel=_HOW,
    ),
]

DrawsOption = Annotated[
    int | None,
    typer.Option(
        help="Support sets a fold and number of shots, the first of those that `probe` draws.",
        show_default="5",
        rich_help_panel=_HOW,
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

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_RUN)]

PrecisionOption = Annotated[
    str,
    typer.Option(
        help="auto (bf16 where hardware and backbone allow it, else fp32), fp32, bf16 or fp16.", rich_help_panel=_RUN
    ),
]

PermutationsOption = Annotated[
    int, typer.Option(help="Labellings of the null distribution behind the p value; 0 for none.", rich_help_panel=_RUN)
]

SeedOption = Annotated[int, typer.Option(help="Seed of the division, and of whatever is random.", rich_help_panel=_RUN)]

CheckpointsOption = Annotated[
    str,
    typer.Option(
        help="Which to keep: all, none, or auto (all but those of full fine-tuning on support sets).",
        rich_help_panel=_RUN,
    ),
]

TrackOption = Annotated[
    str, typer.Option(help="none, or wandb (an extra; WANDB_MODE=offline needs no network).", rich_help_panel=_RUN)
]

ForceOption = Annotated[
    bool, typer.Option("--force", help="Make records again that are complete.", rich_help_panel=_RUN)
]
