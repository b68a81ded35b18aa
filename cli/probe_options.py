"""The options of the verb `probe`."""

from typing import Annotated

import typer

from cli.task_options import HOW, RUNNING

_WHAT, _CHOICE = "What is probed", "How settings are chosen"

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

DrawsOption = Annotated[
    int | None,
    typer.Option(help="Support sets a fold and number of shots.", show_default="100", rich_help_panel=HOW),
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

WorkersOption = Annotated[
    int | None, typer.Option(help="Processes at most.", show_default="one a core", rich_help_panel=RUNNING)
]
