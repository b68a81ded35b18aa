"""How much memory a step takes, and how many images would fit: said before the training, not by its end.

What the backward pass needs is what the forward pass saves for it; autograd itself is asked. With activations computed
anew that is little, and one block comes on top when its turn comes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from peftbench.backbones.device import Precision, autocast
from peftbench.backbones.memory import free_memory
from peftbench.errors import DeviceError
from peftbench.finetuning.checkpointing import checkpointed
from peftbench.finetuning.classifier import Classifier
from peftbench.strategies.adapting import batch_norms

ADAM_BYTES = 12
"""A parameter that learns: its gradient and two moments, each in fp32."""

OVERHEAD = 1.2
"""What gradients of activations and the libraries' own buffers take beside what is saved."""


_SAME_STEP = "(gradients add up to the same step; only batch norms that learn see fewer images at a time)"


class Need(NamedTuple):
    """Bytes that a training takes.

    Attributes:
        loaded: weights, which are there already.
        fixed: gradients, moments, and copies of the weights in lower precision, whatever the batch.
        each: one image of a forward and backward pass.
    """

    loaded: int
    fixed: int
    each: int

    def of(self, images: int) -> int:
        """Bytes of a forward and backward pass of so many images, weights among them."""
        return self.loaded + self.fixed + images * self.each

    def fitting(self, free: int) -> int:
        """The largest power of two of images that fit; 0 where not even one does."""
        images = 1
        if self.of(images) > free:
            return 0
        while self.of(2 * images) <= free:
            images *= 2
        return images


def need_of(classifier: Classifier, device: torch.device, precision: Precision) -> Need:
    """What a step takes, from the forward passes of one black image and of two.

    Args:
        classifier: on the device; in training mode afterwards.
        device: where it runs.
        precision: of the forward pass.
    """
    _ask_mode(classifier)
    one, two = (_saved(classifier, device, precision, images)[0] for images in (1, 2))
    each = two - one
    if blocks := checkpointed(classifier.backbone):
        # In evaluation mode nothing is computed anew: so much is there of the largest block when its turn comes.
        classifier.set_modes(training=False)
        few, more = (_saved(classifier, device, precision, images, blocks)[1:] for images in (1, 2))
        each += max(after - before for before, after in zip(few, more, strict=True))
    classifier.set_modes(training=True)
    parameters = list(classifier.parameters())
    learning = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    total = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    # What does not grow with the images are copies of the weights in lower precision.
    copies = max(0, 2 * one - two)
    return Need(total, ADAM_BYTES * learning + copies, int(OVERHEAD * each))


def _ask_mode(classifier: Classifier) -> None:
    """Training mode, but for batch norms: a black picture must not move their statistics."""
    classifier.set_modes(training=True)
    for norm in batch_norms(classifier.backbone).values():
        norm.eval()


def _saved(
    classifier: Classifier, device: torch.device, precision: Precision, images: int, blocks: Sequence[nn.Module] = ()
) -> list[int]:
    """Bytes that a forward pass of so many images keeps for the backward pass, besides the parameters themselves.

    Returns:
        Of the whole pass, then of each of the blocks.
    """
    own = {each.untyped_storage().data_ptr() for each in classifier.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def same(tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    of_blocks = [0] * len(blocks)

    def noted(at: int, sign: int) -> Any:
        def note_block(*_: object) -> None:
            of_blocks[at] += sign * sum(saved.values())

        return note_block

    watches = [each.register_forward_pre_hook(noted(at, -1)) for at, each in enumerate(blocks)]
    watches += [each.register_forward_hook(noted(at, 1)) for at, each in enumerate(blocks)]
    crop, hooks = classifier.card.transform.crop, cast("Any", torch.autograd.graph.saved_tensors_hooks)
    black = torch.zeros((images, crop, crop), dtype=torch.uint8, device=device)
    with hooks(note, same), autocast(device, precision):
        # Held to the end: what is let go of gives its address to the next.
        answer = classifier(classifier.embed(black))
    del answer
    for watch in watches:
        watch.remove()
    return [sum(saved.values()), *of_blocks]


def refuse_too_large(need: Need, images: int, device: torch.device, name: str) -> None:
    """Nothing where a pass of so many images fits into the free memory.

    Args:
        need: of the training.
        images: in a forward and backward pass.
        device: where it is to fit.
        name: of backbone and strategy, for the message.

    Raises:
        DeviceError: it does not; the message says what would.
    """
    free = free_bytes(device, need)
    if free is not None and need.of(images) > free:
        raise DeviceError(too_large(need, images, free, name))


def too_large(need: Need, images: int, free: int, name: str) -> str:
    """The sentence for a pass that does not fit."""
    fits = need.fitting(free)
    told = f"{name}: a pass of {images} images takes about {need.of(images) / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
    if not fits:
        return f"{told}, too few for one image: free some, take another --device, or add --set checkpointing=true"
    return f"{told}: {fits} image{'s' * (fits > 1)} fit, --set micro_batch={fits} {_SAME_STEP}"


def did_not_fit(images: int, name: str) -> str:
    """The sentence for a pass of a training that a GPU had no room for, whatever it had said before."""
    told = f"{name}: a pass of {images} image{'s' * (images > 1)} did not fit into the GPU's free memory"
    if images < 2:
        return f"{told}: free some, take another --device, or add --set checkpointing=true"
    return f"{told}: free some, or take fewer at a time, as with --set micro_batch={images // 2} {_SAME_STEP}"


@contextmanager
def room_for(name: str) -> Iterator[None]:
    """The context of forward passes alone: a GPU that has no room for them is one sentence.

    Args:
        name: of backbone and strategy.

    Raises:
        DeviceError: they do not fit.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise DeviceError(
            f"{name} does not fit into the GPU's free memory: free some, or take another --device"
        ) from error


def free_bytes(device: torch.device, need: Need) -> int | None:
    """Bytes that a training may take, its weights among them; None where the system does not say.

    Args:
        device: where.
        need: of a classifier that is there already.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch has let go of and not given back is free as well.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + held + need.loaded
    found = free_memory()
    return None if found is None else found + need.loaded
