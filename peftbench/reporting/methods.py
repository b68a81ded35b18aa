"""How the numbers were made, in short: what every form of the report says under its tables."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from peftbench.protocol.metrics import THRESHOLD
from peftbench.protocol.records import Record
from peftbench.reporting.words import MINUS


class Method(NamedTuple):
    """A term and what is meant by it."""

    term: str
    text: str


def methods(records: Sequence[Record]) -> list[Method]:
    """The methods that these records used."""
    told = [_SPLIT]
    if any(record.config.strategy == "LP" for record in records):
        told.append(Method("Linear probe (LP)", _LINEAR_PROBE.format(costs=_costs(records))))
    return [*told, _CONTROL, _MCC, _PR_AUC, _SPREAD, _GAIN, _UNTRAINED]


_SPLIT = Method(
    "Split",
    "Patients are divided, never images, stratified by outcome. In k-fold every patient tests once; in each fold a "
    "fifth of all patients validates and the rest trains. Where the rarer outcome has too few patients for five "
    "folds, fewer are made.",
)

_LINEAR_PROBE = (
    "The backbone is frozen. Its stored embeddings are standardised on the training part; an L2-regularised logistic "
    "regression with balanced classes is fitted there; {costs} the test part is only predicted."
)

_CONTROL = Method(
    "Control",
    "The same probe on the same folds, given nothing but the view (AP, PA or other). What a backbone does not gain "
    "over it may be the view alone.",
)

_MCC = Method(
    "MCC",
    f"Matthews correlation coefficient of decisions at the threshold {THRESHOLD:g}, from {MINUS}1 to 1; 0 is chance. "
    "By patient, a patient's score is the mean over the images, and the outcome is an event if any image has it.",
)

_PR_AUC = Method(
    "PR-AUC",
    "Area under the precision-recall curve, as average precision. Its chance level is the share of events in the "
    "test parts, averaged over folds (so not always the prevalence of the whole) and stated beside it.",
)

_SPREAD = Method(
    "± and ranges",
    "Mean and sample standard deviation over folds, each fold scored on its test part alone. The deviation describes "
    "the folds; it is no confidence interval.",
)

_GAIN = Method(
    "Gain",
    "Mean of the differences in MCC fold by fold, with a 95 % interval from the corrected resampled t statistic "
    "(Nadeau and Bengio 2003), which allows for training parts that overlap. It is not adjusted for picking the best "
    "of several backbones.",
)

_UNTRAINED = Method(
    "Random weights",
    "The same architecture, never trained. A pretrained backbone that does not beat it has not shown that "
    "pretraining helps.",
)


def _costs(records: Sequence[Record]) -> str:
    grids = {tuple(record.config.settings.get("C", ())) for record in records if record.config.strategy == "LP"}
    grid = grids.pop() if len(grids) == 1 else ()
    if not grid:
        return "its regularisation C is chosen on the validation part;"
    low, high = (np.format_float_positional(end, trim="-") for end in (min(grid), max(grid)))
    return f"C is chosen from {len(grid)} values ({low} to {high}) by the balanced log loss on the validation part;"
