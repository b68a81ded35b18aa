"""What a checkpoint holds: all that training changes and nothing else, loaded strictly."""

import pytest
import torch
from adapted_kit import CELLS, Cell, small

from peftbench.errors import StrategyError
from peftbench.strategies.adapting import batch_norms, learning_state, load_learning_state, set_modes

KINDS = ("resnet18", "dinov2-s", "medclip-swin")


@pytest.mark.parametrize(
    "cell", [cell for cell in CELLS if cell.targets == "attention" and cell.backbone in KINDS], ids=str
)
class TestRoundTrip:
    @pytest.mark.slow
    def test_a_second_module_of_the_same_seed_answers_the_same(self, cell: Cell) -> None:
        backbone, first, second = small(cell.backbone), cell.adapted(), cell.adapted()
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for each in first.module.parameters():
                if each.requires_grad:
                    each.add_(torch.randn(each.shape, generator=generator), alpha=0.05)
            set_modes(first, training=True)
            backbone.embedding(first.module, backbone.pixels(7))
            for adapted in (first, second):
                set_modes(adapted, training=False)
            expected = backbone.embedding(first.module)
            assert (cell.strategy == "LP") == torch.equal(backbone.embedding(second.module), expected)
            load_learning_state(second.module, learning_state(first.module))
            assert torch.equal(backbone.embedding(second.module), expected)

    def test_it_holds_what_learns_alone(self, cell: Cell) -> None:
        adapted = cell.adapted()
        state = learning_state(adapted.module)
        norms = {
            f"{name}.{each}" for name, norm in batch_norms(adapted.module).items() for each, _ in norm.named_buffers()
        }
        held = sum(tensor.numel() for name, tensor in state.items() if name not in norms)
        assert held == adapted.parameters
        assert (norms <= set(state)) or cell.strategy != "FFT"
        assert not norms & set(state) or cell.strategy == "FFT"
        assert not any("vera_A" in name or "vera_B" in name for name in state)


class TestStrictness:
    def test_a_copy_is_answered(self) -> None:
        module = small("dinov2-s").adapted("BitFit").module
        state = learning_state(module)
        before = {name: tensor.clone() for name, tensor in state.items()}
        with torch.no_grad():
            module.get_parameter("layernorm.bias").add_(1)
        assert all(torch.equal(state[name], before[name]) for name in state)
        assert not any(tensor.requires_grad for tensor in state.values())

    def test_tensors_of_any_memory_order_are_stored_in_one(self) -> None:
        module = small("resnet18").adapted("FFT").module.to(memory_format=torch.channels_last)
        state = learning_state(module)
        assert all(tensor.is_contiguous() for tensor in state.values())
        load_learning_state(module, state)
        assert module.get_parameter("layer1.0.conv1.weight").is_contiguous(memory_format=torch.channels_last)

    def test_every_fault_is_listed_and_nothing_loaded(self) -> None:
        module = small("dinov2-s").adapted("BitFit").module
        state = learning_state(module)
        before = {name: tensor.clone() for name, tensor in state.items()}
        names = list(state)
        wrong = {name: tensor + 1 for name, tensor in state.items() if name != names[0]}
        wrong[names[1]] = wrong[names[1]][:3]
        wrong[names[2]] = wrong[names[2]].double()
        wrong["other"] = torch.zeros(1)
        with pytest.raises(StrategyError) as told:
            load_learning_state(module, wrong)
        for said in (f"missing {names[0]}", "unexpected other", f"{names[1]} is (3,) float32, expected (16,) float32",
                     f"{names[2]} is (16,) float64, expected (16,) float32"):  # fmt: skip
            assert said in str(told.value)
        after = learning_state(module)
        assert all(torch.equal(after[name], before[name]) for name in names)

    def test_of_another_rank(self) -> None:
        state = learning_state(small("dinov2-s").adapted("LoRA", rank=4).module)
        with pytest.raises(
            StrategyError, match=r"is \(4, 16\) float32, expected \(2, 16\) float32.* and \d+ more: expec"
        ):
            load_learning_state(small("dinov2-s").adapted("LoRA", rank=2).module, state)
