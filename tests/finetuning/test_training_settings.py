"""How a training is set: presets, files, single settings, and what is refused in one sentence."""

import json
import re
from pathlib import Path

import pytest
import yaml

from peftbench.errors import ConfigError, PeftbenchError, UnknownNameError
from peftbench.finetuning.training import OTHER_BATCH, PRESETS, Training, training_of
from peftbench.imaging.augmentation import Augmentation
from stores.keys import canonical_json


def quick(*sets: str) -> Training:
    return training_of("quick", sets, "LoRA", "AFC")


def refusal(*sets: str, preset: str = "quick") -> str:
    """What is said of settings that cannot be."""
    with pytest.raises(PeftbenchError) as caught:
        training_of(preset, sets, "LoRA", "AFC")
    told = str(caught.value)
    assert "\n" not in told
    assert "Traceback" not in told
    assert "pydantic" not in told
    return told


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("strategy", ["LP", "FFT", "LoRA", "VeRA", "BitFit", "IA3"])
def test_a_preset_is_complete_for_every_strategy(preset: str, strategy: str) -> None:
    assert training_of(preset, (), strategy, "CC").augmentation == Augmentation()


@pytest.mark.parametrize(
    ("task", "size"), [("AFC", 128), ("AFC_m", 128), ("NY_small", 128), ("NY_all", 128), ("CC", 64), ("CAR", 32)]
)
def test_the_papers_batch_is_that_of_its_task(task: str, size: int) -> None:
    assert training_of("paper", (), "LoRA", task).batch_size == size
    assert training_of("quick", (), "LoRA", task).batch_size == 16


def test_a_task_that_the_paper_has_not_gets_the_smallest_batch() -> None:
    assert training_of("paper", (), "LoRA", "HAN_icu").batch_size == OTHER_BATCH == 32


@pytest.mark.parametrize(("preset", "full", "few"), [("paper", 1e-5, 1e-4), ("quick", 1e-4, 1e-3)])
def test_full_fine_tuning_learns_slower_than_few_parameters(preset: str, full: float, few: float) -> None:
    assert training_of(preset, (), "FFT", "AFC").learning_rate == full
    for strategy in ("LP", "LoRA", "VeRA", "BitFit", "IA3"):
        assert training_of(preset, (), strategy, "AFC").learning_rate == few


def test_the_papers_settings_are_those_of_the_authors() -> None:
    paper = training_of("paper", (), "LoRA", "AFC")
    assert (paper.epochs, paper.warmup_epochs, paper.early_stop) == (1000, 50, 100)
    assert paper.head_learning_rates == (1e-2, 1e-3, 1e-4)
    assert (paper.schedule, paper.plateau_patience, paper.plateau_factor) == ("plateau", 25, 0.1)
    assert (paper.alpha, paper.dropout, paper.targets) == (1.0, 0.1, "paper")
    assert (paper.balance, paper.choose_by, paper.clip) == ("loss", "log-loss", None)


def test_single_settings_are_put_on_top() -> None:
    how = quick("epochs=7", " clip = 0.5 ", "schedule=plateau", "checkpointing=true", "micro_batch=4", "targets=paper")
    assert (how.epochs, how.clip, how.schedule, how.checkpointing, how.micro_batch) == (7, 0.5, "plateau", True, 4)
    assert how.targets == "paper"
    assert how.augmentation == Augmentation()


def test_of_two_settings_of_one_key_the_last_holds() -> None:
    assert quick("epochs=7", "epochs=9").epochs == 9


@pytest.mark.parametrize(
    ("text", "rates"),
    [("1e-3", (1e-3,)), ("1e-2,1e-3", (1e-2, 1e-3)), ("0.1, 0.2 ,0.3", (0.1, 0.2, 0.3)), ("5,", (5.0,))],
)
def test_several_rates_have_commas_between(text: str, rates: tuple[float, ...]) -> None:
    assert quick(f"head_learning_rates={text}").head_learning_rates == rates


@pytest.mark.parametrize("nothing", ["none", "None", "null"])
def test_nothing_is_written_as_none(nothing: str) -> None:
    how = quick(f"clip={nothing}", f"augmentation={nothing}", f"micro_batch={nothing}")
    assert how.clip is how.augmentation is how.micro_batch is None


def test_one_setting_of_the_augmentation_leaves_the_others() -> None:
    how = quick("augmentation.flip=false", "augmentation.elastic_alpha=1,2")
    assert how.augmentation == Augmentation(flip=False, elastic_alpha=(1.0, 2.0))


def test_an_augmentation_that_was_switched_off_begins_anew_with_its_first_setting() -> None:
    assert quick("augmentation=none", "augmentation.rotation=5").augmentation == Augmentation(rotation=5.0)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("epochs", "expected key=value, as in --set epochs=50"),
        ("=5", "expected key=value"),
        ("clip=", "expected key=value"),
        ("epoch=5", "did you mean epochs"),
        ("learning-rate=1", "did you mean learning_rate"),
        ("augmentation.flips=true", "did you mean flip?"),
        ("augmentation.epochs=3", "unknown setting 'epochs'"),
        ("augmentation=strong", "expected augmentation=none, or one setting as augmentation.flip=false"),
        ("clip.norm=3", "'clip' has no settings of its own, only augmentation has"),
        ("epochs=0", "--set epochs=0: input should be greater than or equal to 1"),
        ("epochs=ten", "--set epochs=ten: expected a whole number"),
        ("epochs=2.5", "--set epochs=2.5: "),
        ("epochs=none", "--set epochs=None: "),
        ("batch_size=1", "greater than or equal to 2"),
        ("learning_rate=0", "greater than 0"),
        ("learning_rate=11", "less than or equal to 10"),
        ("head_learning_rates=1e-2,0", "expected different rates above 0, at most 10"),
        ("head_learning_rates=1e-2,0.01", "expected different rates above 0, at most 10"),
        ("head_learning_rates=1e-2,fast", "--set head_learning_rates=fast: expected a number"),
        ("head_learning_rates=,", "at least 1 item"),
        ("schedule=linear", "input should be 'plateau', 'cosine' or 'constant'"),
        ("balance=weights", "input should be 'loss', 'sampler', 'both' or 'none'"),
        ("choose_by=auc", "input should be 'log-loss' or 'mcc'"),
        ("batch_norm=off", "input should be 'by strategy' or 'frozen'"),
        ("dropout=1", "less than 1"),
        ("checkpointing=perhaps", "checkpointing=perhaps: expected true or false"),
        ("augmentation.flip=perhaps", "--set augmentation.flip=perhaps: expected true or false"),
        (
            "augmentation.elastic_alpha=20",
            "expected numbers with a comma between, as in augmentation.elastic_alpha=20,40",
        ),
        ("augmentation.elastic_alpha=3,2", "expected two numbers from 0 to 10000, the smaller one first"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(setting: str, told: str) -> None:
    assert told in refusal(setting)


@pytest.mark.parametrize(
    "key",
    [
        "learning_rate",
        "head_learning_rates",
        "weight_decay",
        "min_learning_rate",
        "plateau_factor",
        "clip",
        "alpha",
        "dropout",
        "augmentation.zoom",
    ],
)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_no_number_is_refused(key: str, value: str) -> None:
    assert refusal(f"{key}={value}").startswith(f"--set {key}=")


def test_rates_that_a_table_would_not_tell_apart_are_refused() -> None:
    assert "expected different rates" in refusal("head_learning_rates=0.001,0.0010000001")


def test_a_preset_that_is_none_is_answered_with_those_there_are() -> None:
    assert "unknown preset 'papr': did you mean paper?" in refusal(preset="papr")


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_file_builds_on_the_preset_that_it_names(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"mine.{ending}"
    said = {"preset": "paper", "epochs": 12, "head_learning_rates": [0.5, 0.25], "augmentation": {"flip": False}}
    path.write_text(json.dumps(said) if ending == "json" else yaml.safe_dump(said))
    how = training_of(str(path), ("epochs=13", "augmentation.zoom=0.2"), "FFT", "CC")
    assert (how.epochs, how.head_learning_rates, how.batch_size, how.learning_rate) == (13, (0.5, 0.25), 64, 1e-5)
    assert how.augmentation == Augmentation(flip=False, zoom=0.2)
    assert how.targets == "paper"


def test_a_file_that_names_no_preset_builds_on_quick(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("learning_rate: 1e-5\nhead_learning_rates: 1e-2\nclip: null\n")
    how = training_of(str(path), (), "LoRA", "CC")
    assert (how.learning_rate, how.head_learning_rates, how.clip, how.epochs) == (1e-5, (1e-2,), None, 30)


@pytest.mark.parametrize("nothing", ["none", "null", "~"])
def test_nothing_is_written_in_a_file_as_on_the_command_line(tmp_path: Path, nothing: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"augmentation: {nothing}\nclip: {nothing}\n")
    how = training_of(str(path), (), "LoRA", "CC")
    assert how.augmentation is how.clip is None
    again = training_of(str(path), ("augmentation.flip=false",), "LoRA", "CC")
    assert again.augmentation == Augmentation(flip=False)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("epochs: [", "it cannot be read"),
        ("- epochs", "expected settings as `key: value`, found a list"),
        ("", "found nothing"),
        ("preset: fast", "unknown preset 'fast'"),
        ("preset: [quick]", "unknown preset"),
        ("epoch: 3", "did you mean epochs"),
        ("epochs: -3", "epochs=-3"),
        ("augmentation: strong", "augmentation=strong"),
        ("augmentation: {flips: true}", "did you mean flip?"),
        ("3: 4", "strings"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_one_sentence(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    assert told in refusal(preset=str(path))


def test_a_file_whose_augmentation_is_a_word_is_refused_also_beside_a_single_setting(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("augmentation: strong\n")
    assert "augmentation" in refusal("augmentation.flip=false", preset=str(path))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    assert "it cannot be read" in refusal(preset=str(path))


def test_settings_come_back_from_their_canonical_json() -> None:
    for preset in PRESETS:
        how = training_of(preset, ("clip=0.25", "augmentation.flip=false"), "VeRA", "AFC")
        said = how.model_dump(mode="json")
        assert Training.model_validate(json.loads(canonical_json(said))) == how
        assert canonical_json(Training.model_validate(said).model_dump(mode="json")) == canonical_json(said)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        quick().epochs = 3  # type: ignore[misc]


def test_what_the_class_explains_is_what_there_is() -> None:
    explained = re.findall(r"^        (\w+): ", str(Training.__doc__), flags=re.MULTILINE)
    assert explained == list(Training.model_fields)


def test_errors_are_of_the_project() -> None:
    with pytest.raises(UnknownNameError):
        training_of("nonsense", (), "LP", "AFC")
    with pytest.raises(ConfigError):
        quick("epochs=0")
