"""How the numbers were made, in short: what every form of the report says under its tables."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from peftbench.analysis.results import headline_metric
from peftbench.protocol.metrics import THRESHOLD
from peftbench.protocol.names import CONTROL_PREFIX, COX, TRAINED
from peftbench.protocol.records import Record
from peftbench.protocol.splits import is_scheme
from peftbench.reporting.words import MINUS, listed, sentence
from peftbench.strategies.registry import STRATEGIES


class Method(NamedTuple):
    """A term and what is meant by it."""

    term: str
    text: str


def methods(records: Sequence[Record]) -> list[Method]:
    """The methods that these records used."""
    told = [_split({record.config.scheme for record in records})]
    if any(map(_is_linear_probe, records)):
        told.append(Method("Linear probe (LP)", _LINEAR_PROBE.format(costs=_costs(records))))
    told += _other_probes(records)
    told += _fine_tuning([record for record in records if record.config.probe == TRAINED])
    told += [_control(records), _MCC, _PR_AUC, _SPREAD, _GAIN, _UNTRAINED]
    found = [method for method, used in _SOMETIMES if any(map(used, records))]
    return [*told, *(_permuted(records) if method is _PERMUTED else method for method in found)]


def _is_linear_probe(record: Record) -> bool:
    return record.config.strategy == "LP" and record.config.probe != TRAINED


def _permuted(records: Sequence[Record]) -> Method:
    """The p value, with what was permuted as the records say it."""
    ways = dict.fromkeys(str(record.null["how"]) for record in records if record.null)
    return _PERMUTED._replace(text=_PERMUTED.text.format(how=" ".join(map(sentence, ways))))


def _other_probes(records: Sequence[Record]) -> list[Method]:
    """The probes beside the linear one, by name."""
    names = {record.config.probe for record in records if record.config.strategy == "probe"} - {COX}
    return [Method("Other probes", f"{_OTHER_PROBES} {listed(sorted(names))}.")] if names else []


def _fine_tuning(records: Sequence[Record]) -> list[Method]:
    """How backbones were fine-tuned, with the strategies that were; empty where none was."""
    if not records:
        return []
    names = {str(record.config.settings["strategy"]) for record in records}
    cards = [card for name, card in STRATEGIES.items() if name in names]
    told = "; ".join(f"{card.name} ({card.title}{_source(card.source)}): {card.learns}" for card in cards)
    chosen = listed(sorted({_CHOSEN_BY[str(record.config.settings["choose_by"])] for record in records}))
    return [Method("Fine-tuning", f"{_FINE_TUNING.format(chosen=chosen)} What learns: {told}.")]


def _source(source: str) -> str:
    return "" if source == "-" else f"; {source}"


def _control(records: Sequence[Record]) -> Method:
    """What the controls are given, and which of several counts."""
    names = [name for name in _GIVEN if any(record.config.backbone == CONTROL_PREFIX + name for record in records)]
    given = "; ".join(_GIVEN[name] for name in names or ["view"])
    told = f"The same probe on the same folds, given nothing but {given}. {_WHAT_REMAINS}"
    if len(names) > 1:
        told = f"The same probe on the same folds, given in turn nothing but: {given}. {_WHAT_REMAINS} {_STRONGEST}"
    tuned = any(record.config.probe == TRAINED for record in records)
    return Method("Control", f"{told} {_CONTROL_OF_TUNED}" if tuned else told)


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

_OTHER_PROBES = (
    "On the same stored embeddings, the same splits and the same images; what a probe has to choose it chooses on the "
    "validation part. The probes:"
)

_FINE_TUNING = (
    "The backbone reads the images themselves; a linear head is trained with what learns in it. Heads with several "
    "learning rates are trained side by side. The head and the epoch with {chosen} on the fold's validation part are "
    "kept; the test part is only predicted."
)

_CHOSEN_BY = {"log-loss": "the lowest balanced log loss", "mcc": "the highest MCC"}
"""Setting `choose_by` to what it says of the epoch that is kept."""

_CONTROL_OF_TUNED = (
    "A control has nothing to fine-tune: what was fine-tuned is set against the controls of the linear probe on the "
    "same folds."
)

_GIVEN = {
    "view": "the view (AP, PA or other)",
    "center": "the centre",
    "images": "the number of images that the patient has",
    "metadata": "view, centre and number of images together",
    "clinical": "the clinical variables",
}
"""Control by name to what it is given."""

_WHAT_REMAINS = "What a backbone does not gain over it may be that alone."

_STRONGEST = (
    "The gain is over the strongest of them, the one with the highest mean MCC (untrained weights of the same "
    "architecture among them; clinical variables only for what was given them too): as the luckiest of several is "
    "picked for the other side, it is, if anything, too small."
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
    "(Nadeau and Bengio 2003), which allows for training parts that overlap. Where support sets were drawn, a "
    "fold is the mean of its draws. It is not adjusted for picking the best of several backbones.",
)

_UNTRAINED = Method(
    "Random weights",
    "The same architecture, never trained. A pretrained backbone that does not beat it has not shown that "
    "pretraining helps.",
)


_REDUCED = Method(
    "Reduced",
    "Only a random part of the training part is learnt from, with so many images, classes in their proportion.",
)

_FEW_SHOT = Method(
    "Few-shot",
    "Only a support set is learnt from: k random images of each class of the training part (in the center few-shot "
    "regime, of each class and centre). Every draw is another support set, tested on the whole test part.",
)

_DRAWS = Method(
    "Draws",
    "5 to 95 % and worst decile are over draws, each the mean of its folds: what another support set would have given. "
    "The worst decile is the mean of the tenth of the draws with the lowest MCC.",
)

_PERMUTED = Method(
    "p",
    "Share of scores under permuted labels that reach the observed MCC, counting the observed one among them (Phipson "
    "and Smyth 2010), so that it is never 0. {how} It says whether the score is above chance, not whether it is "
    "above a control, and is not adjusted for the number of rows.",
)

_STRATA = Method(
    "Strata",
    "Within a view, or a centre, that shortcut is held fixed: a score that falls to chance there was made of it. The "
    "models are those of the whole; only the test images are divided.",
)

_CALIBRATION = Method(
    "Calibration",
    "Brier: mean squared difference of score and outcome. ECE: expected calibration error over ten bins of equal width "
    "(Naeini et al. 2015). The curve holds all test parts together. Where classes were balanced and the event is rare, "
    "scores lie higher than the shares they meet.",
)

_TUNED = Method(
    "Tuned threshold",
    "The threshold with the highest MCC on the fold's own validation part (of a probe in a few-shot regime: on the "
    "support images, each by the fit without it). Test labels play no part in it. results.csv has the scores as "
    "mcc_tuned.",
)

_EXTERNAL = Method(
    "Another cohort",
    "Models fitted on one task are tested on all rows of another cohort's, as they are: features, scaling, choice and "
    "threshold come from the first. Scores of the folds' models are averaged, unless the provenance says that one "
    "model was fitted anew. Intervals are from a percentile bootstrap by patient (2,000 resamples), and so hold for "
    "these models on other patients, not for other models.",
)

_SURVIVAL = Method(
    "c-index",
    "Harrell's concordance index (Harrell et al. 1982) of a Cox model: share of the comparable pairs of patients, "
    "each by the first image whose time is known, whose risks stand in the right order; 0.5 is chance.",
)

_CLINICAL = Method(
    "Clinical variables",
    "Given to the probe beside the features, or alone; what is missing is filled in, and scaled, by what the training "
    "part shows.",
)

_SOMETIMES: tuple[tuple[Method, Callable[[Record], object]], ...] = (
    (_REDUCED, lambda record: record.config.regime == "reduced"),
    (_FEW_SHOT, lambda record: "few-shot" in record.config.regime),
    (_DRAWS, lambda record: record.distribution),
    (_PERMUTED, lambda record: record.null),
    (_STRATA, lambda record: record.strata),
    (_CALIBRATION, lambda record: record.reliability),
    (_TUNED, lambda record: not math.isnan(record.score("mcc_tuned", record.task["unit"])[0])),
    (_EXTERNAL, lambda record: record.config.external),
    (_CLINICAL, lambda record: "clinical" in record.config.backbone),
    (_SURVIVAL, lambda record: headline_metric(record) == "c_index"),
)
"""What is said only where a record used it."""


def _costs(records: Sequence[Record]) -> str:
    grids = {tuple(record.config.settings.get("C", ())) for record in records if _is_linear_probe(record)}
    grid = grids.pop() if len(grids) == 1 else ()
    if not grid:
        return "its regularisation C is chosen on the validation part;"
    low, high = (np.format_float_positional(end, trim="-") for end in (min(grid), max(grid)))
    return f"C is chosen from {len(grid)} values ({low} to {high}) by the balanced log loss on the validation part;"
