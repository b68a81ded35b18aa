"""Batch norms folded into the convolutions before them: the same function with fewer passes over memory.

For inference only, on a copy: what is trained keeps its norms. Features differ from the unfolded ones in their last
bits, so that folding is an ingredient of a store's key.
"""

import copy
from typing import TypeGuard

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_NONE = ("", nn.Identity())
"""What follows the last child."""


def folded(module: nn.Module) -> nn.Module:
    """A copy in which every norm that directly follows its convolution is part of it.

    Args:
        module: in evaluation mode; its children stand in the order in which they run, as a card with `folds` promises.
    """
    copied = copy.deepcopy(module)
    _fold(copied)
    return copied


def _fold(parent: nn.Module) -> None:
    children = list(parent.named_children())
    for (name, child), (next_name, following) in zip(children, [*children, _NONE][1:], strict=True):
        if _is_convolution(child) and _is_norm(following) and child.out_channels == following.num_features:
            setattr(parent, name, fuse_conv_bn_eval(child, following))
            # timm's norms hold their activation.
            setattr(parent, next_name, getattr(following, "act", None) or nn.Identity())
        else:
            _fold(child)


def _is_convolution(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return isinstance(module, nn.Conv2d)


def _is_norm(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return isinstance(module, nn.BatchNorm2d) and module.running_var is not None
