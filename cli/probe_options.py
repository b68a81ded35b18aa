"""The options of the verb `probe`."""

from typing import Annotated

import typer

_WHAT, _HOW, _CHOICE, _RUN = "What is probed", "How much trains", "How settings are chosen", "Running"

TaskArgument = Annotated[list[str], typer.Argument(help="Name or names of tasks: see `peftbench list tasks`.")]

BackboneOption = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone",
        help="Name of an extracted backbone; may be repeated.",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]

ProbeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        help="logistic, ridge, knn, centroid, cox, one of the classical set, `classical`, `all` (see `peftbench "
        'list probes`), or a classifier by its import path: "sklearn.svm.SVC(C=10)". May be repeated.',
        show_default="logistic",
        rich_help_panel=_WHAT,
    ),
]

WithOption = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        help="`clinical`: clinical variables alone, and beside the features.",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]

ReadingOption = Annotated[
    str,
    typer.Option(
        help="`embedding`, or `blocks`: the last block or the last four, with and without the mean patch token, "
        "chosen on validation.",
        rich_help_panel=_WHAT,
    ),
]

ExternalOption = Annotated[
    str | None,
    typer.Option(
        help="A task of another cohort with the same outcome: fit here, test there.",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]

FoldModelsOption = Annotated[
    str,
    typer.Option(
        help="With --external: `averaged`, the mean score of the folds' models, or `refitted`, one model of all.",
        rich_help_panel=_WHAT,
    ),
]

FeaturesOption = Annotated[
    str | None,
    typer.Option(
        help="Start of the key of the feature store to use, where several would serve.",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]

ControlOption = Annotated[
    bool,
    typer.Option(
        help="Whether to run the controls: view, centre, number of images, and untrained weights if stored.",
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
    typer.Option(help="Support sets a fold and number of shots.", show_default="100", rich_help_panel=_HOW),
]

ChooseOnOption = Annotated[
    str | None,
    typer.Option(
        help="`validation`, or `support`: each image of the support set by the fit without it.",
        show_default="support where a part of the training part is used",
        rich_help_panel=_CHOICE,
    ),
]

ChooseByOption = Annotated[str, typer.Option(help="`log-loss` (balanced) or `mcc`.", rich_help_panel=_CHOICE)]

ClassWeightOption = Annotated[
    str, typer.Option(help="`balanced`: both classes weigh the same; or `none`.", rich_help_panel=_CHOICE)
]

CalibrateOption = Annotated[
    str, typer.Option(help="`none`, or `temperature`: scores scaled on validation.", rich_help_panel=_CHOICE)
]

PermutationsOption = Annotated[
    int,
    typer.Option(help="Labellings of the null distribution behind the p value; 0 for none.", rich_help_panel=_RUN),
]

SeedOption = Annotated[int, typer.Option(help="Seed of the division, and of whatever is random.", rich_help_panel=_RUN)]

WorkersOption = Annotated[
    int | None, typer.Option(help="Processes at most.", show_default="one a core", rich_help_panel=_RUN)
]

ForceOption = Annotated[
    bool, typer.Option("--force", help="Make records again that are complete.", rich_help_panel=_RUN)
]
