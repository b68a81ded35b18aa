"""Every cell of the matrix on small real architectures: what learns, what stays, and what is refused."""

import pytest
import torch
from adapted_kit import BLOCKS, CELLS, NAMES, RANK, WIDTH, Cell, options_for, small
from torch import nn

from peftbench.errors import StrategyError, UnknownNameError
from peftbench.strategies.adapting import ADAPTERS, Adapted, adapt, batch_norms, set_modes
from peftbench.strategies.guard import Guard
from peftbench.strategies.injection import adapters_of
from peftbench.strategies.options import Options
from peftbench.strategies.registry import STRATEGIES


def trained(adapted: Adapted, embedding: torch.Tensor) -> tuple[str, ...]:
    """One step of training, under guard."""
    guard = Guard.of(adapted.module)
    embedding.square().sum().backward()
    unused = guard.check_gradients()
    # Of normalised inputs the sum of squares is all but constant: steps are of one size whatever the gradient.
    torch.optim.Adam([each for each in adapted.module.parameters() if each.requires_grad], lr=1e-2).step()
    guard.check_unchanged()
    return unused


def test_every_strategy_has_its_file() -> None:
    assert list(ADAPTERS) == list(STRATEGIES)


@pytest.mark.parametrize("cell", CELLS, ids=str)
class TestCells:
    @pytest.mark.slow
    def test_freshly_adapted_it_answers_as_before(self, cell: Cell) -> None:
        backbone = small(cell.backbone)
        module = backbone.module()
        with torch.no_grad():
            before = backbone.embedding(module)
            adapted = adapt(module, backbone.card, cell.strategy, options_for(cell.strategy, targets=cell.targets))
            set_modes(adapted, training=False)
            after = backbone.embedding(adapted.module)
        assert adapted.module is module, "the loader takes it as it took the encoder"
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)

    @pytest.mark.slow
    def test_what_learns_is_counted_and_a_step_moves_nothing_else(self, cell: Cell) -> None:
        backbone, adapted = small(cell.backbone), cell.adapted()
        learning = [each for each in adapted.module.parameters() if each.requires_grad]
        assert sum(each.numel() for each in learning) == adapted.parameters
        assert (adapted.parameters == 0) == (cell.strategy == "LP")
        if cell.strategy == "LP":
            return
        set_modes(adapted, training=False)
        before = backbone.embedding(adapted.module)
        unused = trained(adapted, before)
        assert unused == (("embeddings.mask_token",) if cell[:2] == ("dinov2-s", "FFT") else ())
        with torch.no_grad():
            assert float((backbone.embedding(adapted.module) - before).abs().max()) > 1e-5

    @pytest.mark.slow
    def test_batch_norms_follow_the_data_where_everything_learns_alone(self, cell: Cell) -> None:
        backbone, adapted = small(cell.backbone), cell.adapted()
        norms = batch_norms(adapted.module)
        set_modes(adapted, training=True)
        assert {norm.training for norm in norms.values()} <= {cell.strategy == "FFT"}
        assert adapted.norms_learn == (cell.strategy == "FFT")
        assert adapted.module.training == (cell.strategy != "LP")
        before = [norm.get_buffer("running_mean").clone() for norm in norms.values()]
        with torch.no_grad():
            backbone.embedding(adapted.module)
        moved = [
            not torch.equal(norm.get_buffer("running_mean"), old)
            for norm, old in zip(norms.values(), before, strict=True)
        ]
        assert set(moved) <= {cell.strategy == "FFT"}
        set_modes(adapted, training=False)
        assert not any(each.training for each in adapted.module.modules())


class TestLayers:
    @pytest.mark.parametrize(
        ("name", "strategy", "targets", "layers"),
        [
            ("dinov2-s", "LoRA", "attention", 4 * BLOCKS),
            ("dinov2-s", "LoRA", "paper", 5 * BLOCKS),
            ("clip-large", "LoRA", "paper", 3 * BLOCKS),
            ("dinov2-s", "VeRA", "attention", 4 * BLOCKS),
            ("dinov2-s", "VeRA", "paper", 3 * BLOCKS),
            ("medclip-swin", "VeRA", "paper", 2 * BLOCKS),
            ("dinov2-s", "IA3", "attention", 3 * BLOCKS),
            ("dinov2-s", "IA3", "paper", 5 * BLOCKS),
            ("medclip-swin", "IA3", "paper", 5 * BLOCKS),
            ("clip-large", "IA3", "paper", 5 * BLOCKS),
            ("resnet18", "LoRA", "attention", 12),
            ("resnet18", "LoRA", "paper", 5),
            ("resnet18", "IA3", "paper", 5),
            ("efficientnet-lite0", "LoRA", "attention", 33),
            ("efficientnet-lite0", "IA3", "attention", 49),
            ("dinov2-s", "LP", "attention", 0),
        ],
    )
    def test_as_many_are_adapted_as_the_preset_has(self, name: str, strategy: str, targets: str, layers: int) -> None:
        adapted = small(name).adapted(strategy, targets=targets)
        assert adapted.layers == layers
        assert len(adapters_of(adapted.module)) == layers

    def test_ia3_scales_what_goes_into_feed_forward_layers_and_what_comes_out_of_others(self) -> None:
        shapes = {
            name.rpartition(".ia3")[0].rpartition(".")[2]: tuple(each.shape)
            for name, each in small("dinov2-s").adapted("IA3", targets="paper").module.named_parameters()
            if each.requires_grad
        }
        out, into = (WIDTH, 1), (1, WIDTH)
        assert shapes == {"q_proj": out, "k_proj": out, "v_proj": out, "fc1": into, "fc2": (1, 4 * WIDTH)}

    @pytest.mark.parametrize("name", NAMES)
    def test_bitfit_trains_what_is_called_bias_at_its_end(self, name: str) -> None:
        module = small(name).adapted("BitFit").module
        learning = {each for each, parameter in module.named_parameters() if parameter.requires_grad}
        assert learning == {each for each, _ in module.named_parameters() if each.endswith("bias")}
        assert not any("relative_position_bias_table" in each for each in learning)

    def test_swin_has_tables_that_a_search_for_the_word_would_find(self) -> None:
        names = [name for name, _ in small("medclip-swin").module().named_parameters()]
        assert any("bias" in name and not name.endswith("bias") for name in names)


class TestArithmetic:
    """What the library computes is what its papers say."""

    def test_lora_of_a_linear_layer(self) -> None:
        module = small("dinov2-s").adapted("LoRA", alpha=3.0, dropout=0.5).module
        layer = adapters_of(module)["encoder.layer.0.attention.q_proj"]
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        nn.init.normal_(b)
        x = torch.randn(5, WIDTH)
        torch.testing.assert_close(layer(x), layer.base_layer(x) + 3.0 / RANK * x @ a.T @ b.T)

    @pytest.mark.parametrize("name", ["layer2.0.conv1", "layer2.0.downsample.0"])
    def test_lora_of_a_convolution(self, name: str) -> None:
        layer = adapters_of(small("resnet18").adapted("LoRA", alpha=3.0).module)[name]
        base, a, b = layer.base_layer, layer.lora_A["default"].weight, layer.lora_B["default"].weight
        nn.init.normal_(b)
        kernel = base.weight + 3.0 / RANK * torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
        x = torch.randn(2, base.in_channels, 9, 9)
        expected = nn.functional.conv2d(x, kernel, base.bias, base.stride, base.padding)
        layer.eval()
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)

    def test_vera(self) -> None:
        layers = adapters_of(small("medclip-swin").adapted("VeRA").module)
        narrow, wide = (layers[f"encoder.layers.{stage}.blocks.0.attention.q_proj"] for stage in (0, 1))
        for layer, width in ((narrow, WIDTH), (wide, 2 * WIDTH)):
            a, b = layer.vera_A["default"], layer.vera_B["default"]
            assert a is narrow.vera_A["default"], "shared"
            nn.init.normal_(layer.vera_lambda_b["default"])
            x = torch.randn(5, width)
            scaled = x @ a[:, :width].T * layer.vera_lambda_d["default"] @ b[:width].T * layer.vera_lambda_b["default"]
            layer.eval()
            torch.testing.assert_close(layer(x), layer.base_layer(x) + scaled)

    def test_ia3(self) -> None:
        layers = adapters_of(small("dinov2-s").adapted("IA3").module)
        key, second = (layers[f"encoder.layer.0.{name}"] for name in ("attention.k_proj", "mlp.fc2"))
        for layer in (key, second):
            nn.init.uniform_(layer.ia3_l["default"], 0.5, 2)
        x, y = torch.randn(5, WIDTH), torch.randn(5, 4 * WIDTH)
        torch.testing.assert_close(key(x), key.base_layer(x) * key.ia3_l["default"].flatten())
        torch.testing.assert_close(second(y), second.base_layer(y * second.ia3_l["default"].flatten()))


class TestSeeds:
    @pytest.mark.parametrize("strategy", ["LoRA", "VeRA"])
    def test_what_is_drawn_follows_from_the_seed(self, strategy: str) -> None:
        def drawn(seed: int) -> torch.Tensor:
            layer = next(iter(adapters_of(small("dinov2-s").adapted(strategy, seed=seed).module).values()))
            a: torch.Tensor = layer.lora_A["default"].weight if strategy == "LoRA" else layer.vera_A["default"]
            return a.detach()

        torch.manual_seed(5)
        first = drawn(3)
        torch.manual_seed(6)
        assert torch.equal(first, drawn(3))
        assert not torch.equal(first, drawn(4))

    def test_the_callers_generator_is_left_alone(self) -> None:
        backbone = small("dinov2-s")
        module = backbone.module()
        before = torch.get_rng_state()
        adapt(module, backbone.card, "LoRA", Options(rank=2))
        assert torch.equal(torch.get_rng_state(), before)

    def test_nothing_is_warned_of(self, recwarn: pytest.WarningsRecorder) -> None:
        for strategy in ("LoRA", "VeRA", "IA3"):
            small("dinov2-s").adapted(strategy)
        assert [str(each.message) for each in recwarn] == []


class TestRefusals:
    @pytest.mark.parametrize("strategy", ["LoRA", "VeRA"])
    @pytest.mark.parametrize("rank", [0, -1, 17])
    def test_a_rank_that_does_not_fit_names_the_layer_and_the_largest_that_does(self, strategy: str, rank: int) -> None:
        said = rf"{strategy} of rank {rank} does not fit: the layer \S+ \(16 inputs, 16 outputs\) allows 1 to 16"
        with pytest.raises(StrategyError, match=said):
            small("dinov2-s").adapted(strategy, rank=rank)

    def test_the_largest_rank_fits(self) -> None:
        assert small("dinov2-s").adapted("LoRA", rank=WIDTH).layers == 4 * BLOCKS

    def test_of_a_convolution_the_kernel_counts(self) -> None:
        with pytest.raises(StrategyError, match=r"rank 65 does not fit: the layer \S+ \(\d+ inputs, 64 outputs\)"):
            small("resnet18").adapted("LoRA", rank=65)
        assert small("resnet18").adapted("LoRA", rank=64, targets="paper").layers == 5

    @pytest.mark.parametrize("strategy", ["LoRA", "VeRA"])
    def test_a_rank_is_needed(self, strategy: str) -> None:
        with pytest.raises(StrategyError, match=f"{strategy} needs a rank: the paper has 4, 8 and 16"):
            small("dinov2-s").adapted(strategy, rank=None)

    @pytest.mark.parametrize("strategy", ["LP", "FFT", "BitFit", "IA3"])
    def test_or_there_is_none(self, strategy: str) -> None:
        with pytest.raises(StrategyError, match=f"{strategy} has no rank, and 8 was given: leave it away"):
            small("dinov2-s").adapted(strategy, rank=8)

    @pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet-lite0"])
    def test_vera_on_convolutions(self, name: str) -> None:
        with pytest.raises(
            StrategyError, match=r"VeRA does not fit .* only convolutions\): choose one of LP, FFT, LoRA"
        ):
            small(name).adapted("VeRA")

    def test_a_card_that_counts_wrongly(self) -> None:
        backbone = small("dinov2-s")
        layers = {**backbone.card.layers, "fc1": backbone.card.layers["query"]}
        layers["fc1"] = type(layers["fc1"])(r"encoder\.layer\.\d+\.mlp\.dense", BLOCKS)
        card = backbone.card.model_copy(update={"layers": layers})
        with pytest.raises(StrategyError, match=r"0 linear layers of 'dinov2-s' match .*dense', expected 4 \(fc1\)"):
            adapt(backbone.module(), card, "BitFit")

    def test_a_layer_of_another_type_is_none_of_the_group(self) -> None:
        backbone = small("resnet18")
        layers = {"query": type(backbone.card.layers["convolution"])(r"layer1\.0\.conv1", 1)}
        card = backbone.card.model_copy(update={"layers": layers})
        with pytest.raises(StrategyError, match="0 linear layers of 'resnet18'"):
            adapt(backbone.module(), card, "LP")

    @pytest.mark.parametrize("strategy", ["LoRA", "IA3"])
    def test_a_card_without_layers(self, strategy: str) -> None:
        backbone = small("dinov2-s")
        card = backbone.card.model_copy(update={"layers": {}, "paper_targets": ()})
        for targets, said in (("attention", "names no layers"), ("paper", "choose the targets 'attention'")):
            with pytest.raises(StrategyError, match=said):
                adapt(backbone.module(), card, strategy, options_for(strategy, targets=targets))

    def test_an_encoder_that_was_adapted_before(self) -> None:
        backbone = small("dinov2-s")
        module = backbone.adapted("LoRA").module
        with pytest.raises(StrategyError, match="adapted before: load it anew"):
            adapt(module, backbone.card, "IA3")

    def test_a_library_that_adapts_something_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(ADAPTERS["LoRA"]), "expected_parameters", lambda *_: 7)
        with pytest.raises(StrategyError, match="LoRA makes 1,024 parameters of 'dinov2-s' learn, expected 7"):
            small("dinov2-s").adapted("LoRA")

    def test_a_backbone_without_biases(self) -> None:
        backbone = small("dinov2-s")
        card = backbone.card.model_copy(update={"layers": {}, "paper_targets": ()})
        with pytest.raises(StrategyError, match="has none"):
            adapt(nn.Linear(3, 3, bias=False), card, "BitFit")

    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [("alpha", 0.0, "alpha is 0.0"), ("alpha", float("nan"), "alpha is nan"), ("dropout", 1.0, "dropout is 1.0"),
         ("dropout", -0.1, "dropout is -0.1")],
    )  # fmt: skip
    def test_options_out_of_their_range(self, option: str, value: float, said: str) -> None:
        with pytest.raises(StrategyError, match=said):
            Options(**{option: value})

    def test_a_preset_that_there_is_not(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown preset of targets 'papers': did you mean paper"):
            Options(targets="papers")  # type: ignore[arg-type]

    def test_a_strategy_that_there_is_not(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown strategy 'LoRAA': did you mean LoRA"):
            small("dinov2-s").adapted("LoRAA")

    def test_names_may_be_in_any_case(self) -> None:
        backbone = small("dinov2-s")
        assert adapt(backbone.module(), backbone.card, "bitfit").strategy == "BitFit"
        assert adapt(backbone.module(), backbone.card, "LORA", Options(rank=2)).strategy == "LoRA"
