"""The guard finds what training must not change, and what should learn and does not."""

import pytest
import torch
from adapted_kit import RANK, small
from torch import nn

from peftbench.errors import StrategyError
from peftbench.strategies.adapting import Adapted, set_modes
from peftbench.strategies.guard import Guard
from peftbench.strategies.injection import adapters_of


def backward(name: str, adapted: Adapted) -> None:
    small(name).embedding(adapted.module).square().sum().backward()


class TestUnchanged:
    @pytest.mark.parametrize("strategy", ["LP", "BitFit", "LoRA", "VeRA", "IA3"])
    def test_a_weight_that_changed_in_its_last_bit_is_named(self, strategy: str) -> None:
        module = small("dinov2-s").adapted(strategy).module
        guard = Guard.of(module)
        guard.check_unchanged()
        weight = next(each for name, each in module.named_parameters() if "layer.2.mlp.fc1" in name and each.ndim == 2)
        weight.data.view(torch.int32)[3, 4] += 1
        with pytest.raises(StrategyError, match=r"frozen tensors changed: encoder\.layer\.2\.mlp\.fc1\.\S*weight;"):
            guard.check_unchanged()

    @pytest.mark.parametrize("strategy", ["LP", "BitFit", "LoRA", "IA3"])
    def test_statistics_that_moved_are_named(self, strategy: str) -> None:
        adapted = small("resnet18").adapted(strategy)
        guard = Guard.of(adapted.module)
        # As a careless trainer would do it.
        adapted.module.train()
        small("resnet18").embedding(adapted.module)
        with pytest.raises(
            StrategyError, match=r"bn1\.running_mean, bn1\.running_var, bn1\.num_batches_tracked.* more"
        ):
            guard.check_unchanged()

    def test_where_everything_learns_they_may(self) -> None:
        adapted = small("resnet18").adapted("FFT")
        guard = Guard.of(adapted.module)
        set_modes(adapted, training=True)
        small("resnet18").embedding(adapted.module)
        guard.check_unchanged()
        assert guard.checksums == {}

    def test_veras_shared_matrices_are_watched(self) -> None:
        module = small("dinov2-s").adapted("VeRA").module
        guard = Guard.of(module)
        next(iter(adapters_of(module).values())).vera_A["default"][0, 0] += 1
        with pytest.raises(StrategyError, match=r"vera_A\.default"):
            guard.check_unchanged()

    def test_what_learns_by_mistake_is_named(self) -> None:
        module = small("dinov2-s").adapted("LoRA").module
        guard = Guard.of(module)
        module.get_parameter("layernorm.weight").requires_grad = True
        with pytest.raises(StrategyError, match=r"frozen tensors changed: layernorm\.weight;"):
            guard.check_unchanged()

    def test_what_learns_may_change(self) -> None:
        module = small("dinov2-s").adapted("BitFit").module
        guard = Guard.of(module)
        with torch.no_grad():
            for each in module.parameters():
                if each.requires_grad:
                    each.add_(1)
        guard.check_unchanged()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool])
    def test_of_any_type(self, dtype: torch.dtype) -> None:
        module = nn.Module()
        module.register_buffer("values", torch.ones((2, 3), dtype=dtype).t())
        module.register_buffer("one", torch.tensor(1))
        module.register_buffer("none", torch.empty(0))
        guard = Guard.of(module)
        guard.check_unchanged()
        module.get_buffer("values")[1, 1] = 0
        with pytest.raises(StrategyError, match="frozen tensors changed: values;"):
            guard.check_unchanged()

    def test_memory_in_another_order_is_the_same(self) -> None:
        module = small("resnet18").adapted("LoRA").module
        guard = Guard.of(module)
        module.to(memory_format=torch.channels_last)
        guard.check_unchanged()


class TestGradients:
    @pytest.mark.parametrize("strategy", ["LoRA", "VeRA", "IA3"])
    def test_an_adapter_that_nothing_reaches_is_named(self, strategy: str) -> None:
        adapted = small("dinov2-s").adapted(strategy)
        guard = Guard.of(adapted.module)
        backward("dinov2-s", adapted)
        guard.check_gradients()
        for each in adapters_of(adapted.module)["encoder.layer.1.attention.v_proj"].parameters():
            if each.grad is not None:
                each.grad.zero_()
        said = r"zero in 1 of \d+ adapted layers: encoder\.layer\.1\.attention\.v_proj;"
        with pytest.raises(StrategyError, match=said):
            guard.check_gradients()

    def test_loras_a_is_zero_at_first_and_that_is_right(self) -> None:
        adapted = small("dinov2-s").adapted("LoRA")
        backward("dinov2-s", adapted)
        layer = next(iter(adapters_of(adapted.module).values()))
        assert int(layer.lora_A["default"].weight.grad.count_nonzero()) == 0
        assert int(layer.lora_B["default"].weight.grad.count_nonzero()) > RANK
        assert Guard.of(adapted.module).check_gradients() == ()

    def test_a_bias_without_a_gradient_is_named(self) -> None:
        adapted = small("resnet18").adapted("BitFit")
        backward("resnet18", adapted)
        adapted.module.get_parameter("bn1.bias").grad = None
        with pytest.raises(StrategyError, match=r"no gradient reached bn1\.bias:"):
            Guard.of(adapted.module).check_gradients()

    def test_where_everything_learns_what_is_not_used_is_answered(self) -> None:
        adapted = small("dinov2-s").adapted("FFT")
        backward("dinov2-s", adapted)
        assert Guard.of(adapted.module).check_gradients() == ("embeddings.mask_token",)

    def test_but_not_if_that_is_all(self) -> None:
        with pytest.raises(StrategyError, match="no gradient reached conv1"):
            Guard.of(small("resnet18").adapted("FFT").module).check_gradients()

    def test_with_a_head_on_top(self) -> None:
        """The trainer may guard backbone and head as one."""
        adapted = small("resnet18").adapted("LP")
        whole = nn.ModuleDict({"backbone": adapted.module, "head": nn.Linear(512, 2)})
        guard = Guard.of(whole)
        set_modes(adapted, training=True)
        whole["head"](small("resnet18").embedding(adapted.module)).sum().backward()
        assert guard.check_gradients() == ()
        guard.check_unchanged()
