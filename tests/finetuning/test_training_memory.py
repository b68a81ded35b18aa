"""How much memory a step takes is told beforehand, near enough to what is really allocated."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from finetune_kit import (
    CPU,
    WORDS,
    Shown,
    adaptation_of,
    assert_same_tensors,
    bench_of,
    dense,
    encoder,
    encoder_of,
    settings,
    vit_of,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peftbench.backbones import vit
from peftbench.backbones.device import Precision, autocast
from peftbench.errors import DeviceError
from peftbench.finetuning import memory
from peftbench.finetuning.classifier import Classifier
from peftbench.finetuning.memory import ADAM_BYTES, OVERHEAD, Need, need_of, refuse_too_large

WIDE = vit_of("biomedclip", vit.biomedclip(), 32, intermediate_size=64, patch_size=4)
"""With so many tokens that its activations are larger than its pictures, as in a real one."""

MADE: dict[str, Callable[[], Any]] = {
    "wide": lambda: encoder(WIDE),
    "densenet": lambda: encoder_of("densenet"),
    "swin": lambda: encoder_of("swin"),
    "resnet": lambda: encoder_of("resnet"),
}


class Allocated(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive.

    Attributes:
        now: of those that came into being under it.
        peak: the most at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = function(*args, **(kwargs or {}))
        given = {_storage(each)._cdata for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
        for tensor in tree_leaves(answer):
            if isinstance(tensor, torch.Tensor):
                self._count(_storage(tensor), given)
        return answer

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in given or key in self._alive:
            return
        self._alive.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def classifier_of(shown: Shown, name: str, strategy: str, **changes: Any) -> Classifier:
    bench = bench_of(MADE[name](), shown)
    return bench.classifier(adaptation_of(strategy), settings(**changes), WORDS, 1)


def allocated(classifier: Classifier, images: int, precision: Precision = "fp32") -> tuple[int, int]:
    """Bytes alive between forward and backward pass, and at most."""
    crop = classifier.card.transform.crop
    classifier.set_modes(training=True)
    classifier.zero_grad(set_to_none=True)
    pixels = torch.zeros((images, crop, crop), dtype=torch.uint8)
    with Allocated() as counted:
        with autocast(CPU, precision):
            logits = classifier(classifier.embed(pixels))
        kept = counted.now
        logits.float().square().sum().backward()
    return kept, counted.peak


def an_image(classifier: Classifier, precision: Precision = "fp32") -> tuple[float, float]:
    """By how many bytes both grow with an image."""
    few, many = (allocated(classifier, images, precision) for images in (4, 12))
    return (many[0] - few[0]) / 8, (many[1] - few[1]) / 8


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("strategy", ["FFT", "LoRA", "BitFit"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_image_takes_what_is_said(shown: Shown, name: str, strategy: str, checkpointing: bool) -> None:
    classifier = classifier_of(shown, name, strategy, checkpointing=checkpointing)
    need = need_of(classifier, CPU, "fp32")
    kept, peak = an_image(classifier)
    if not checkpointing:
        assert kept * 0.95 <= need.each / OVERHEAD <= kept * 1.1
    assert peak * 0.7 < need.each < peak * 1.5


@pytest.mark.parametrize("strategy", ["FFT", "LoRA"])
def test_in_half_precision_an_image_takes_less_and_copies_of_weights_are_not_counted_with_it(
    shown: Shown, strategy: str
) -> None:
    exact, half = (need_of(classifier_of(shown, "resnet", strategy), CPU, each) for each in ("fp32", "bf16"))  # type: ignore[arg-type]
    assert 0.45 * exact.each < half.each < 0.8 * exact.each


def test_what_learns_less_needs_less(shown: Shown) -> None:
    needs = {
        (strategy, anew): need_of(classifier_of(shown, "wide", strategy, checkpointing=anew), CPU, "fp32")
        for strategy in ("LP", "LoRA", "BitFit", "FFT")
        for anew in (False, True)
    }
    for anew in (False, True):
        probe, lora, bitfit, full = (needs[strategy, anew].each for strategy in ("LP", "LoRA", "BitFit", "FFT"))
        assert 10 * probe < min(lora, bitfit) <= max(lora, bitfit) < full
    for strategy in ("LoRA", "BitFit", "FFT"):
        assert needs[strategy, True].each < 0.7 * needs[strategy, False].each
        assert needs[strategy, True].fixed == pytest.approx(needs[strategy, False].fixed, rel=0.01)
    assert needs["FFT", False].fixed > 2 * needs["LoRA", False].fixed


@pytest.mark.parametrize("strategy", ["LP", "LoRA", "FFT"])
def test_gradients_and_moments_of_what_learns_are_counted(shown: Shown, strategy: str) -> None:
    classifier = classifier_of(shown, "wide", strategy)
    learning = sum(each.numel() for each in classifier.parameters() if each.requires_grad)
    frozen = classifier_of(shown, "wide", "LP")
    head = sum(each.numel() for each in frozen.heads.parameters())
    extra = need_of(classifier, CPU, "fp32").fixed - need_of(frozen, CPU, "fp32").fixed
    adapters = sum(each.numel() for each in classifier.parameters()) - sum(each.numel() for each in frozen.parameters())
    expected = ADAM_BYTES * (learning - head)
    # Weights of adapters are counted where weights are.
    assert expected <= extra <= expected + 4 * adapters + 0.01 * expected


@pytest.mark.parametrize("name", ["dense", "lite0", "vit"])
@pytest.mark.parametrize("strategy", ["FFT", "LoRA"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_to_ask_changes_nothing(shown: Shown, name: str, strategy: str, checkpointing: bool) -> None:
    how = settings(checkpointing=checkpointing, dropout=0.5)
    classifier = bench_of(name, shown).classifier(adaptation_of(strategy), how, WORDS, 1)
    classifier.set_modes(training=True)
    before = {key: each.clone() for key, each in classifier.state_dict().items()}
    modes = [each.training for each in classifier.modules()]
    need_of(classifier, CPU, "fp32")
    # Batch norms would remember a black picture.
    assert_same_tensors(classifier.state_dict(), before)
    assert [each.training for each in classifier.modules()] == modes
    assert all(each.grad is None for each in classifier.parameters())


def test_pictures_so_small_that_one_number_a_channel_is_left_can_be_asked_about(shown: Shown) -> None:
    # A batch norm refuses to learn from one.
    bench = bench_of(encoder(dense(4, (1, 1, 1, 1), 4)), shown)
    classifier = bench.classifier(adaptation_of("FFT"), settings(), WORDS, 1)
    classifier.set_modes(training=True)
    assert need_of(classifier, CPU, "fp32").each > 0


def test_it_grows_with_every_image() -> None:
    need = Need(400, 600, 10)
    assert [need.of(images) for images in (0, 1, 5)] == [1000, 1010, 1050]


@pytest.mark.parametrize(
    ("free", "fits"), [(999, 0), (1009, 0), (1010, 1), (1019, 1), (1020, 2), (1039, 2), (1040, 4), (1_000_000, 65536)]
)
def test_what_fits_is_a_power_of_two(free: int, fits: int) -> None:
    need = Need(400, 600, 10)
    assert need.fitting(free) == fits
    assert not fits or need.of(fits) <= free < need.of(2 * fits)


def refusal(monkeypatch: pytest.MonkeyPatch, need: Need, images: int, free: int) -> str:
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    with pytest.raises(DeviceError) as caught:
        refuse_too_large(need, images, CPU, "vit with LoRA r8")
    told = str(caught.value)
    assert "\n" not in told
    return told


def test_what_is_too_large_is_refused_with_the_size_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refusal(monkeypatch, Need(0, 10**9, 10**8), 64, 3 * 10**9)
    assert told.startswith("vit with LoRA r8: a pass of 64 images takes about 7.4 GB, 3.0 GB are free")
    assert "16 images fit, --set micro_batch=16" in told


def test_where_not_even_one_image_fits_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refusal(monkeypatch, Need(0, 10**9, 10**8), 1, 10**9)
    assert "too few for one image" in told
    assert "--set checkpointing=true" in told
    assert "micro_batch" not in told


def test_what_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 2 * 10**9)
    refuse_too_large(Need(0, 10**9, 10**8), 10, CPU, "vit")
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    refuse_too_large(Need(0, 10**12, 10**12), 10, CPU, "vit")


@pytest.mark.parametrize(("kind", "others"), [("cpu", 0), ("cuda", 0), ("cuda", 10**9)])
def test_weights_that_are_there_are_counted_once_and_moments_that_are_not_once_too(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, kind: str, others: int
) -> None:
    classifier = classifier_of(shown, "resnet", "FFT")
    need = need_of(classifier, CPU, "fp32")
    weights = sum(each.numel() * each.element_size() for each in classifier.parameters())
    still = ADAM_BYTES * sum(each.numel() for each in classifier.parameters())
    device, free = torch.device(kind), [0]
    monkeypatch.setattr(memory, "free_memory", lambda: free[0])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free[0], 10**12))
    # What else lives on the GPU, pictures for one, is not free.
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: weights + others)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: weights + others)
    free[0] = int(1.02 * (still + 8 * need.each))
    refuse_too_large(need, 8, device, "resnet with FFT")
    free[0] = int(0.98 * (still + 8 * need.each))
    with pytest.raises(DeviceError):
        refuse_too_large(need, 8, device, "resnet with FFT")


@pytest.mark.parametrize(("images", "advice"), [(9, "--set micro_batch=4"), (1, "--set checkpointing=true")])
def test_a_gpu_that_was_fuller_than_it_said_is_a_sentence(images: int, advice: str) -> None:
    told = memory.did_not_fit(images, "vit with LoRA r8")
    assert told.startswith(f"vit with LoRA r8: a pass of {images} image")
    assert told.count("--set") == 1
    assert advice in told
    assert ("only batch norms that learn" in told) == (images > 1)
