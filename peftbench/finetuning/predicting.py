"""A trained classifier applied: probabilities of the event, and a checkpoint brought back to life."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from peftbench.backbones.device import Precision, autocast
from peftbench.errors import DeviceError, RecordError
from peftbench.finetuning.bench import Adaptation, Bench
from peftbench.finetuning.classifier import Classifier
from peftbench.finetuning.feed import Feed
from peftbench.finetuning.keeping import CHECKPOINTS, read_checkpoint
from peftbench.finetuning.training import Training
from peftbench.protocol.records import Record
from peftbench.strategies.adapting import shared_digest

Scores = npt.NDArray[np.float64]

PREDICTED_AT_ONCE = 32


@torch.no_grad()
def probabilities(
    classifier: Classifier,
    embeddings: Iterable[torch.Tensor],
    device: torch.device,
    precision: Precision,
    moment: Callable[[], None] = lambda: None,
) -> Scores:
    """(heads, n) probability of the event, by each head.

    Args:
        classifier: in evaluation mode.
        embeddings: (k, d) batch by batch, computed when asked for.
        device: where it runs.
        precision: of the forward pass.
        moment: is called behind each batch; may raise to stop.
    """
    found = [torch.zeros((len(classifier.heads), 0), dtype=torch.float64)]
    iterator = iter(embeddings)
    while True:
        with autocast(device, precision):
            embedding = next(iterator, None)
            if embedding is None:
                break
            logits = classifier(embedding)
        found.append(torch.softmax(logits.double(), dim=2)[:, :, 1].cpu())
        moment()
    return torch.cat(found, dim=1).numpy()


def predict(classifier: Classifier, feed: Feed, precision: Precision, moment: Callable[[], None]) -> Scores:
    """(n,) probability of the event of all pictures of a feed, by the first head.

    Args:
        classifier: on the feed's device.
        feed: the pictures.
        precision: of the forward pass.
        moment: is called behind each batch; may raise to stop.
    """
    classifier.set_modes(training=False)
    numbers = np.arange(len(feed))
    batches = np.array_split(numbers, max(1, -(-len(numbers) // PREDICTED_AT_ONCE)))
    embeddings = (classifier.embed(pixels) for pixels in feed.batches(batches))
    scores: Scores = probabilities(classifier, embeddings, feed.device, precision, moment)[0]
    return scores


def refuse_no_number(scores: Mapping[str, Scores], name: str, precision: Precision) -> None:
    """Nothing where all scores are numbers.

    Args:
        scores: (n,) of each part.
        name: of backbone and strategy.
        precision: of the forward passes: what no validation picture did, one elsewhere may overflow.

    Raises:
        DeviceError: some are none.
    """
    for part, found in scores.items():
        if wrong := int((~np.isfinite(found)).sum()):
            raise DeviceError(
                f"{name}: scores of {wrong} of {len(found)} pictures {part} are no numbers in {precision}: "
                "take --precision fp32"
            )


def revived(record: Record, folder: Path, fold: int, draw: int, bench: Bench) -> Classifier:
    """The classifier of a record's fold and support set, from its checkpoint.

    Args:
        record: of a fine-tuning.
        folder: of the record.
        fold: of its split.
        draw: of its support sets.
        bench: with the record's backbone.

    Raises:
        RecordError: the checkpoint was not kept, is damaged, or was trained on other weights than the bench has.
    """
    config = record.config
    name = checkpoint_name(fold, draw)
    digests: Mapping[str, str] = record.provenance.get("checkpoints", {})
    if name not in digests:
        raise RecordError(
            f"the record {folder} keeps no checkpoint of fold {fold}, draw {draw}: train it again with "
            "--checkpoints all --force"
        )
    tensors, about = read_checkpoint(folder / CHECKPOINTS / name, digests[name])
    _refuse_mismatch(about, config.identity, bench)
    settings = {key: value for key, value in config.settings.items() if key in Training.model_fields}
    how = Training.model_validate(settings)
    adaptation = Adaptation(about["strategy"], about["rank"])
    classifier = bench.classifier(adaptation, how, ("revived",), heads=1)
    if about["shared"] != shared_digest(classifier.backbone):
        raise RecordError(
            f"the checkpoint {name} was trained beside other shared matrices than the installed torch and peft draw "
            "from the record's seed: install the versions that the record's provenance names"
        )
    classifier.load(tensors)
    classifier.set_modes(training=False)
    return classifier


def checkpoint_name(fold: int, draw: int) -> str:
    """Of the checkpoint of a fold and support set."""
    return f"fold-{fold}.safetensors" if not draw else f"fold-{fold}-draw-{draw}.safetensors"


def _refuse_mismatch(about: Mapping[str, Any], identity: str, bench: Bench) -> None:
    encoder = bench.encoder
    found = {
        "identity": identity,
        "weights": encoder.weights_digest,
        "transform": str(encoder.card.transform),
    }
    wrong = [name for name, value in found.items() if about.get(name) != value]
    if wrong:
        raise RecordError(
            f"the checkpoint was made with another {' and '.join(wrong)} than {encoder.spec.name} has here: bring the "
            "weights it was trained on (`peftbench weights verify`), or train it again"
        )
