"""What docs/finetuning.md says of settings is what the program has."""

from pathlib import Path

import pytest

from peftbench.finetuning.training import PRESETS, RATES, Training, training_of
from peftbench.strategies.registry import STRATEGIES

TEXT = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text()
TABLE = TEXT.partition("| setting | what | `paper` | `quick` |")[2].partition("\n\n")[0]
ROWS = {
    cells[1].strip(): (cells[3].strip(), cells[4].strip())
    for line in TABLE.splitlines()
    if len(cells := line.split("|")) > 5
}


@pytest.mark.parametrize("setting", Training.model_fields)
def test_every_setting_stands_in_the_table(setting: str) -> None:
    assert f"`{setting}`" in TABLE


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_stands_in_the_table(strategy: str) -> None:
    assert f"| `{strategy.lower()}` |" in TEXT


@pytest.mark.parametrize("setting", ["epochs", "warmup_epochs", "early_stop", "evaluate_every", "weight_decay"])
@pytest.mark.parametrize("preset", PRESETS)
def test_numbers_of_the_presets_are_those_of_the_program(preset: str, setting: str) -> None:
    said = ROWS[f"`{setting}`"][list(PRESETS).index(preset)]
    assert float(said) == float(getattr(training_of(preset, [], "LoRA", "AFC"), setting))


@pytest.mark.parametrize("preset", PRESETS)
def test_rates_are_those_of_the_program(preset: str) -> None:
    column = list(PRESETS).index(preset)
    said = ROWS["`learning_rate`"][column].partition("; FFT ")
    assert (float(said[0]), float(said[2])) == (RATES[preset]["PEFT"], RATES[preset]["FFT"])
    heads = training_of(preset, [], "LP", "AFC").head_learning_rates
    assert tuple(map(float, ROWS["`head_learning_rates`"][column].split(","))) == heads
