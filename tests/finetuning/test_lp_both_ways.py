"""The linear probe both ways: trained on pictures to convergence, it is the logistic regression on their features."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from finetune_kit import Shown, adaptation_of, bench_of, dense, encoder, settings, shown_in, trained
from sklearn.linear_model import LogisticRegression
from torch import nn

from peftbench.backbones.loading import Encoder
from peftbench.finetuning.bench import Bench
from peftbench.finetuning.trainer import Parts
from peftbench.probing.estimators import LogisticProbe

COUNT = 120


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Classes that no plane tells apart: the regression has a finite optimum."""
    return shown_in(tmp_path_factory.mktemp("overlapping") / "images", COUNT, signal=4.0, noise=60.0)


def in_use(made: Encoder, shown: Shown) -> Encoder:
    """The same with batch norms that have seen these very pictures: eight features of one size."""
    module, transform = copy.deepcopy(made.module), made.card.transform
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    pixels = torch.empty((COUNT, 3, transform.crop, transform.crop))
    with torch.no_grad():
        module.train()(transform.normalise(transform.shape(shown.pictures), pixels))
    return replace(made, module=module.eval())


@pytest.fixture(scope="module")
def bench(overlapping: Shown) -> Bench:
    return bench_of(in_use(encoder(dense(4, (1, 1, 1, 1), 4)), overlapping), overlapping, COUNT)


@pytest.fixture(scope="module")
def parts(overlapping: Shown) -> Parts:
    """Forty-five without the event and twenty-five with it train."""
    event = overlapping.event
    train = np.concatenate([np.flatnonzero(event == 0)[:45], np.flatnonzero(event == 1)[:25]])
    return Parts(event, train, np.setdiff1d(np.arange(COUNT), train))


@pytest.fixture(scope="module")
def features(bench: Bench) -> np.ndarray:
    classifier = bench.classifier(adaptation_of("LP"), settings(), ("features",), 1)
    return bench.embeddings(classifier).numpy().astype(np.float64)


def test_the_embedding_is_small_and_its_classes_overlap(features: np.ndarray, parts: Parts) -> None:
    assert features.shape == (COUNT, 8)
    probe = LogisticProbe(C=1e6).fit(features[parts.train], parts.event[parts.train])
    assert 0.5 < (probe.predict(features[parts.train]) == parts.event[parts.train]).mean() < 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("balance", "cached"), [("loss", False), ("none", True)])
def test_a_head_trained_on_pictures_is_the_logistic_regression_on_their_features(
    bench: Bench, features: np.ndarray, parts: Parts, balance: str, cached: bool
) -> None:
    # One step an epoch over all pictures, at a constant rate, and no look before the last.
    how = settings(
        epochs=300,
        evaluate_every=300,
        batch_size=128,
        head_learning_rates=(0.3,),
        weight_decay=0.0,
        balance=balance,
    )
    found = trained(bench, "LP", how, parts, cached=cached).scores[0][parts.validation]
    weight = "balanced" if balance == "loss" else None
    there, event = features[parts.validation], parts.event[parts.train]
    probe = LogisticProbe(C=1e6, class_weight=weight).fit(features[parts.train], event)
    reference = LogisticRegression(class_weight=weight, C=1e6, max_iter=100_000, tol=1e-10)
    reference.fit(features[parts.train], event)
    assert found.max() - found.min() > 0.5
    np.testing.assert_allclose(found, probe.predict_proba(there)[:, 1], atol=1e-4)
    np.testing.assert_allclose(found, reference.predict_proba(there)[:, 1], atol=1e-4)


def test_features_of_streamed_pictures_are_those_of_the_encoder(bench: Bench, features: np.ndarray) -> None:
    transform, encoder = bench.encoder.card.transform, bench.encoder
    (pixels,) = bench.feed.batches([np.arange(COUNT)])
    batch = transform.normalise(pixels, torch.empty((COUNT, 3, transform.crop, transform.crop)))
    with torch.no_grad():
        expected = encoder.loader.outputs(encoder.module, batch)["embedding"]
    np.testing.assert_allclose(features, expected, atol=1e-5)
