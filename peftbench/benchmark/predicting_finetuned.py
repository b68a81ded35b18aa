"""A fine-tuned record's models, brought back from their checkpoints and applied to pictures in memory."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch

from peftbench.backbones.device import device_kind, pick_device
from peftbench.backbones.loading import library_versions
from peftbench.benchmark.predicting_encoder import differences, loaded, precision_of
from peftbench.benchmark.predicting_record import Source
from peftbench.cohorts.card import open_pictures
from peftbench.finetuning.bench import Bench, reproducible
from peftbench.finetuning.classifier import Classifier
from peftbench.finetuning.feed import Feed
from peftbench.finetuning.feed import Source as Pictures
from peftbench.finetuning.memory import room_for
from peftbench.finetuning.predicting import PREDICTED_AT_ONCE, probabilities, refuse_no_number, revived
from peftbench.protocol.progress import Progress
from stores.images import Pixels


class FineTuned:
    """The models of a fine-tuned record.

    Args:
        source: the record.
        device: where they run.
        precision: of the forward pass; None for the record's.
        weights: file of the backbone's weights, where they are of a file of the user's own; else empty.
        told: hears how far it is.

    Raises:
        ConfigError: weights are named that it does not need.
        WeightsError: the backbone's weights are absent.
        DeviceError: the device or the precision is not to be had.
        RecordError: the backbone is another here, or the first checkpoint was not kept or is damaged.
    """

    def __init__(self, source: Source, device: str, precision: str | None, weights: str, told: Progress) -> None:
        self.source, self.told = source, told
        recipe = source.record.provenance["features"]["recipe"]
        where = pick_device(device)
        exactness = precision_of(precision, recipe["precision"], where)
        encoder = loaded(source.config.backbone, weights, recipe, told)
        here = {"precision": exactness, "device": device_kind(where), "libraries": library_versions(encoder.card)}
        if note := differences(here, recipe):
            told.note(note)
        # Classifiers are made on it; its pictures play no part, and there are none.
        nothing = Pictures(open_pictures(source.place, source.rows.task.cohort), [], encoder.card.transform)
        self.bench = Bench(encoder, Feed(nothing, where, told), where, exactness, told, source.config.seed)
        self._shaped: list[torch.Tensor] = []
        with reproducible(where):
            # What cannot be brought back is found out before many files are decoded.
            self._model(0, 0)

    @property
    def at_once(self) -> int:
        """Pictures that are best taken together."""
        return PREDICTED_AT_ONCE

    @property
    def models(self) -> int:
        """How many there are: one a fold and support set."""
        return self.source.config.folds * self.source.config.draws

    def take(self, pictures: Mapping[str, Pixels]) -> None:
        """Pictures to predict, behind those taken before; kept as small as the backbone sees them."""
        self._shaped.append(self.bench.encoder.card.transform.shape(list(pictures.values())))

    def scores(self) -> npt.NDArray[np.float64]:
        """(models, pictures) probability of the event, fold after fold, of each its draws.

        Raises:
            RecordError: a checkpoint was not kept or is damaged.
            DeviceError: the pictures do not fit into memory, or the precision gives scores that are no numbers.
        """
        config, bench = self.source.config, self.bench
        name = f"{config.backbone} with {config.strategy}"
        self.told.start(f"predicting with {config.backbone}", self.models * sum(map(len, self._shaped)))
        found = []
        with reproducible(bench.device), room_for(name):
            for fold in range(config.folds):
                for draw in range(config.draws):
                    classifier = self._model(fold, draw)
                    embeddings = self._embeddings(classifier)
                    found.append(probabilities(classifier, embeddings, bench.device, bench.precision)[0])
        together = np.stack(found)
        refuse_no_number({"given": together.sum(axis=0)}, name, bench.precision)
        return together

    def _model(self, fold: int, draw: int) -> Classifier:
        return revived(self.source.record, self.source.folder, fold, draw, self.bench)

    def _embeddings(self, classifier: Classifier) -> Iterator[torch.Tensor]:
        for pixels in self._shaped:
            yield classifier.embed(pixels.to(self.bench.device))
            self.told.advance(len(pixels))
