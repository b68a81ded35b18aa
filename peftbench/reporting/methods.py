"""How the numbers were made, in short: what every form of the report says under its tables."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from peftbench.protocol.metrics import THRESHOLD
from peftbench.protocol.records import Record
from peftbench.protocol.splits import is_scheme
from peftbench.reporting.words import MINUS


class Method(NamedTuple):
    """A term and what is meant by it."""

    term: str
    text: str


def methods(records: Sequence[Record]) -> list[Method]:
    """The methods that these records used."""
    told = [_split({record.config.scheme for record in records})]
    if any(record.config.strategy == "LP" for record in records):
        told.append(Method("Linear probe (LP)", _LINEAR_PROBE.format(costs=_costs(records))))
    return [*told, _CONTROL, _MCC, _PR_AUC, _SPREAD, _GAIN, _UNTRAINED]


def _split(schemes: Collection[str]) -> Method:
    """How patients were divided: what holds for every scheme, then a sentence for each that was used."""
    own = sorted(scheme for scheme in schemes if not is_scheme(scheme))
    told = [_DIVIDED, *(text for scheme, text in _SCHEMES.items() if scheme in schemes)]
    if own:
        told.append(f"A user's own split ({', '.join(own)}) is as its file says; no patient plays two roles in a fold.")
    return Method("Split", " ".join(told))


_DIVIDED = "Patients are divided, never images."

_SCHEMES = {
    "k-fold": "In k-fold every patient tests once; in each fold a fifth of all patients validates and the rest trains, "
    "stratified by outcome, and by centre where there are several. "
    "Where the rarer outcome has too few patients for five folds, fewer are made.",
    "LOCO": "In LOCO (leave one centre out) every centre tests once; a tenth of the other centres' patients validates, "
    "stratified by outcome and centre, and the rest trains.",
    "hold-out": "In hold-out a fifth of the patients tests, a fifth validates, and the rest trains, once, stratified "
    "as in k-fold.",
}
"""Scheme of a record to how it divides."""

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
