"""Tables of scores, as far as `probe` and `finetune` show the same."""

from typing import TYPE_CHECKING

from cli.console import number, spread
from peftbench.protocol.names import CONTROL_PREFIX

if TYPE_CHECKING:
    from peftbench.protocol.results import ScoreRow

OVER_FOLDS = "mean ± standard deviation over folds; folds are divided by patient"

GAIN = "paired difference in {} to the strongest control on the same folds, with its 95 % interval"
"""What the gain is, in a metric."""


def score_cells(row: "ScoreRow") -> dict[str, str]:
    """Column to text; columns that begin with > are right-aligned."""
    control = row.control.removeprefix(CONTROL_PREFIX)
    gain = f"{number(row.gain_mean)} ({number(row.gain_low)} to {number(row.gain_high)}), {control}"
    return {
        "task": row.task,
        "tested on": row.external,
        "backbone": row.backbone,
        "probe": row.probe,
        "split": row.scheme,
        ">shots": "-" if row.shots is None else str(row.shots),
        ">folds": str(row.folds),
        ">MCC": _mcc(row),
        ">5-95 % of draws": f"{number(row.mcc_q05)} to {number(row.mcc_q95)}",
        ">worst tenth": number(row.mcc_worst_decile),
        ">PR-AUC": spread(row.pr_auc_mean, row.pr_auc_std),
        ">prevalence": number(row.prevalence),
        ">p": number(row.p_value),
        ">gain over the strongest control": gain if control else "",
    }


def _mcc(row: "ScoreRow") -> str:
    """With its deviation over folds; of a test elsewhere with its interval."""
    if row.external:
        return f"{number(row.mcc_mean)} ({number(row.mcc_low)} to {number(row.mcc_high)})"
    return spread(row.mcc_mean, row.mcc_std)
