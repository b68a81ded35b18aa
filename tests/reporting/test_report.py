"""The report: what it says, that it says it safely, and that the tables on disk lose nothing."""

import html
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_kit

from peftbench.analysis.results import COLUMNS, results_table
from peftbench.cohorts.prepare import prepare
from peftbench.errors import NotPreparedError, WorkspaceError
from peftbench.probing.probe import probe
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.records import FoldScore, Record, RunConfig, iter_records
from peftbench.protocol.scoring import summarise
from peftbench.protocol.workspace import Workspace
from peftbench.reporting import words
from peftbench.reporting.content import Section, sections
from peftbench.reporting.markdown import markdown
from peftbench.reporting.page import page
from peftbench.reporting.plot import Axis
from peftbench.reporting.reading import overall, reading
from peftbench.reporting.report import report
from peftbench.reporting.sheets import scores_sheet
from stores.features import FeatureStore
from stores.recipe import FeatureRecipe

TASKS = ("PHA_icu", "PHA_icu_all")
NAMES = ("mcc", "pr_auc", "roc_auc", "balanced_accuracy", "sensitivity", "specificity", "f1", "brier", "ece")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAN = math.nan


def _store(place: Workspace, backbone: str, precision: str, informed: float, seed: int) -> str:
    """Features of all phantom images that hold `informed` times the extent of opacities beside noise."""
    frame = Manifest.read("phantom", place.manifest("phantom")).frame.drop_duplicates("image_digest")
    outputs = {"embedding": "pool"}
    recipe = FeatureRecipe(
        "test:made-up", f"{seed:064x}", "resize(8)", outputs, "float32", precision, "cpu", 16, {"made-up": "1"}
    )
    matrix = np.random.default_rng(seed).normal(size=(len(frame), 6)).astype(np.float32)
    matrix[:, 0] += informed * frame["opacity_extent"].to_numpy(dtype=np.float32)
    store = FeatureStore.create(place.features(backbone, recipe.key), recipe, {"embedding": (6,)})
    store.append(frame["image_digest"].tolist(), {"embedding": matrix})
    return recipe.key


@pytest.fixture(scope="module")
def place(phantom_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A phantom workspace: two backbones, one of them in two precisions, one untrained."""
    place = Workspace(tmp_path_factory.mktemp("report") / "workspace")
    prepare("phantom", phantom_raw, workspace=place)
    _store(place, "resnet18@random:0", "fp32", 0.0, 1)
    keys = [_store(place, "efficientnet-lite0", precision, 40.0, 2) for precision in ("fp32", "bf16")]
    probe(TASKS, "resnet18@random:0", workspace=place)
    for key in keys:
        probe(TASKS, "efficientnet-lite0", workspace=place, features=key)
    return place


@pytest.fixture(scope="module")
def written(place: Workspace) -> dict[str, str]:
    """The files of the report by name."""
    result = report(workspace=place)
    assert result.records == len(list(iter_records(place))) > 2 * 3
    return {Path(path).name: Path(path).read_text() for path in (*result.tables, result.html)}


def _record(backbone: str, mcc: Sequence[float], *, task: str = "T", **changes: Any) -> Record:
    """A record with these scores by fold, at image and patient level alike."""
    scores = [
        FoldScore(
            unit,
            fold,
            0,
            10,
            4,
            dict.fromkeys(NAMES, value),
            {} if not math.isnan(value) else {"mcc": "none of the 10 has the event"},
            {},
        )
        for fold, value in enumerate(mcc)
        for unit in ("image", "patient")
    ]
    settings: dict[str, Any] = {
        "task": task, "backbone": backbone, "strategy": "LP", "probe": "logistic", "regime": "full",
        "scheme": "k-fold", "folds": len(mcc), "shots": None, "draws": 1, "seed": 0, "settings": {"C": [0.1, 1.0]},
        "task_digest": "t", "split_digest": "s", "features": "f" * 64, "features_digest": "d" * 64, "version": "1",
    }  # fmt: skip
    config = RunConfig(**{**settings, **{key: value for key, value in changes.items() if key in settings}})
    facts = {"question": "Why?", "cohort": "made-up", "unit": "image", "caveat": "few patients", "images": 50}
    facts |= {"patients": 40, "events": 20, "event_patients": 16, "prevalence": 0.4, **changes.get("facts", {})}
    software = {"peftbench": "1", "commit": None, "python": "3", "platform": "P", "packages": {"numpy": "2"}}
    recipe = {"precision": "fp32", "device": "cpu", "weights": "w", "transform": "t", "libraries": {"l": "1"}}
    return Record(
        identity=config.identity, config=config, task=facts, scores=[score._asdict() for score in scores],
        summary=summarise(scores), notes=changes.get("notes", []), cost={}, predictions_digest="", status="complete",
        provenance={**software, "features": {} if backbone.startswith("control") else {"recipe": recipe}},
    )  # fmt: skip


def _sections(records: Sequence[Record], cards: dict[str, Any] | None = None) -> list[Section]:
    return sections(records, results_table(records), cards or {})


def _read(*records: Record) -> str:
    (section,) = _sections(records)
    return " ".join(reading(section))


class _Parsed(HTMLParser):
    """Tags that are left open, references that a browser would load, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class TestTheVerb:
    def test_csv_is_the_table_in_full_precision(self, place: Workspace, written: dict[str, str]) -> None:
        found = pd.read_csv(place.report / "results.csv", dtype=str, keep_default_na=False)
        expected = results_table(record for _, record in iter_records(place))
        assert tuple(found.columns) == COLUMNS
        for name in COLUMNS:
            if pd.api.types.is_float_dtype(expected[name]):
                read = np.array([float(text or "nan") for text in found[name]])
                np.testing.assert_array_equal(read, expected[name].to_numpy())
            else:
                assert (
                    found[name].tolist()
                    == expected[name].astype(object).where(expected[name].notna(), "").astype(str).tolist()
                )

    def test_both_precisions_are_shown_and_told_apart(self, written: dict[str, str]) -> None:
        rows = [line for line in written["results.md"].splitlines() if line.startswith("| EfficientNet-Lite0")]
        scores = [row for row in rows if "LP (logistic)" in row]
        assert len(scores) == 4
        assert ["fp32" in row for row in scores] != ["bf16" in row for row in scores]
        assert "Precision" in _Parsed(written["report.html"]).text

    def test_tables_say_what_is_what(self, written: dict[str, str]) -> None:
        for text in (written["results.md"], html.unescape(written["report.html"])):
            for word in ("ResNet-18, random weights (seed 0)", "view only (control)", "reference", "chance 0."):
                assert word in text
            assert "Will the patient be admitted to intensive care, from the first image?" in text
            assert "Generated images: a check of the method, not of medicine." in text

    def test_patient_scores_stand_only_where_patients_have_several_images(self, written: dict[str, str]) -> None:
        first, every = re.split(r"^## PHA_icu_all$", written["results.md"], flags=re.MULTILINE)
        assert "by patient)" not in first
        assert "MCC (by patient)" in every

    def test_the_views_are_those_of_the_card(self, place: Workspace, written: dict[str, str]) -> None:
        frame = Manifest.read("phantom", place.manifest("phantom")).frame
        count = int((frame["view"] == "AP").sum())
        every = written["results.md"].split("## PHA_icu_all")[1]
        assert re.search(rf"\| AP +\| +{count} \|", every)

    def test_markdown_columns_are_aligned(self, written: dict[str, str]) -> None:
        lines = written["results.md"].split("## Provenance")[0].splitlines()
        widths = [{len(line) for line in block} for block in _blocks(lines)]
        assert widths
        assert all(len(each) == 1 for each in widths)

    def test_the_same_records_give_the_same_bytes(
        self, place: Workspace, written: dict[str, str], tmp_path: Path
    ) -> None:
        report(workspace=place, out=tmp_path / "deep" / "again")
        for name, text in written.items():
            again = (tmp_path / "deep" / "again" / name).read_text()
            assert _undated(again) == _undated(text)

    def test_a_record_that_is_not_complete_is_to_be_completed(self, tmp_path: Path) -> None:
        cells = tmp_path / "results" / "PHA_icu" / "resnet18" / "LP" / "some-run" / "cells"
        cells.mkdir(parents=True)
        (cells / "fold-0.npz").touch()
        told = r"no complete record: run `peftbench probe` or `peftbench finetune` again, which was stopped, first"
        with pytest.raises(NotPreparedError, match=told):
            report(workspace=tmp_path)

    def test_an_empty_workspace_names_the_command(self, tmp_path: Path, place: Workspace) -> None:
        with pytest.raises(NotPreparedError, match=r"holds no complete record: run `peftbench prepare"):
            report(workspace=tmp_path)
        shutil.copytree(place.root / "cohorts", tmp_path / "cohorts")
        with pytest.raises(NotPreparedError, match="run `peftbench extract"):
            report(workspace=tmp_path)
        shutil.copytree(place.root / "features", tmp_path / "features")
        with pytest.raises(NotPreparedError, match="run `peftbench probe"):
            report(workspace=tmp_path)

    def test_a_folder_that_cannot_be_written(self, place: Workspace, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(WorkspaceError, match="--out DIR"):
            report(workspace=place, out=tmp_path / "file" / "report")

    def test_without_a_card_the_views_are_left_out(self, place: Workspace, tmp_path: Path) -> None:
        shutil.copytree(place.results, tmp_path / "results")
        text = Path(report(workspace=tmp_path).html).read_text()
        assert "View and outcome" not in text
        (tmp_path / "cohorts" / "phantom").mkdir(parents=True)
        (tmp_path / "cohorts" / "phantom" / "card.json").write_text("{")
        with pytest.raises(WorkspaceError, match="peftbench prepare phantom"):
            report(workspace=tmp_path)


def _blocks(lines: list[str]) -> list[list[str]]:
    """Runs of lines of a Markdown table."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("|"):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def _undated(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d", "DATE", text)


class TestThePage:
    def test_loads_and_runs_nothing(self, written: dict[str, str]) -> None:
        text = written["report.html"]
        parsed = _Parsed(text)
        assert not parsed.open
        assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe", "object", "use", "image"}
        references = [
            value or "" for _, attributes in parsed.tags for key, value in attributes.items() if key in {"href", "src"}
        ]
        assert references
        assert all(each.startswith("#") for each in references)
        assert not re.search(r"https?://|url\(|@import|\bon\w+=", text)

    def test_links_find_their_section(self, written: dict[str, str]) -> None:
        tags = _Parsed(written["report.html"]).tags
        names = [attributes["id"] for _, attributes in tags if "id" in attributes]
        assert len(names) == len(set(names))
        assert {f"#{task}" for task in TASKS} == {attributes["href"] for tag, attributes in tags if tag == "a"}

    def test_tables_and_figures_are_accessible(self, written: dict[str, str]) -> None:
        tags = _Parsed(written["report.html"]).tags
        assert all("scope" in attributes for tag, attributes in tags if tag == "th")
        kinds = [tag for tag, _ in tags]
        assert kinds.count("table") == kinds.count("caption")
        assert kinds.count("svg") == kinds.count("desc") == len(TASKS) * len(("score", "gain", "reliability"))
        names = {attributes.get("id") for _, attributes in tags}
        drawn = [attributes for tag, attributes in tags if tag == "svg"]
        assert all(set((attributes["aria-labelledby"] or "").split()) <= names for attributes in drawn)

    def test_every_fold_is_a_dot(self, place: Workspace, written: dict[str, str]) -> None:
        records = [record for _, record in iter_records(place)]
        dots = written["report.html"].count('<circle class="dot ')
        assert dots == sum(record.config.folds for record in records)

    def test_names_are_escaped(self) -> None:
        evil = "<script>alert('x')</script>&\"|"
        record = _record(
            evil, [0.1, 0.2, 0.3], task=evil, facts={"question": evil, "cohort": evil, "caveat": evil}, notes=[evil]
        )
        card = {"title": evil, "source": evil, "licence": evil, "caveat": evil}
        card |= {"tasks": {evil: {"images": 50, "patients": 40, "events": 20, "excluded": {evil: 1},
                                  "views": {evil: {"event": 1, "no event": 2}}}}}  # fmt: skip
        parts = _sections([record], {evil: card})
        text = page(parts, [record], {evil: card}, evil)
        assert "<script" not in text
        assert not _Parsed(text).open
        assert evil in _Parsed(text).text
        plain = markdown(parts, [record], {evil: card}, evil)
        assert "<script" not in plain
        assert (
            len({len(re.findall(r"(?<!\\)\|", line)) for block in _blocks(plain.splitlines())[1:2] for line in block})
            == 1
        )


def _page_of_long_names() -> str:
    name = "anunusuallylongname" * 12
    facts = {"question": name, "cohort": name, "caveat": name}
    backbones = (name, f"{name}@random:0", "control:view")
    records = [_record(each, [0.1, 0.2, 0.4], task=name, facts=facts, notes=[name]) for each in backbones]
    return page(_sections(records), records, {}, name)


def _page_of_all() -> str:
    records = report_kit.everything()
    return page(report_kit.sections_of(records), records, {}, "now")


def _page_of_fine_tuned() -> str:
    name = "anunusuallylongname" * 12
    records = [*report_kit.fine_tuned(), report_kit.tuned(name, [0.1, 0.2, 0.4], name, set_={name: [name]})]
    return page(report_kit.tuned_sections(records), records, {}, "now")


def _measured(text: str, width: int, told: str, tmp_path: Path) -> list[int]:
    """Whole numbers that a page in a frame of that width says of itself.

    A frame, because a headless window is never narrower than 500 pixels.
    """
    document = html.escape(text)
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{document}"></iframe>'
    script = (
        "onload = () => { const page = document.querySelector('iframe').contentDocument.documentElement;"
        f"document.title = `widths ${{[{told}].join(' ')}}`; }}"
    )
    (tmp_path / "frame.html").write_text(f"<!doctype html><meta charset=utf-8>{frame}<script>{script}</script>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [str(CHROMIUM), *options, "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<title>widths ([\d ]+)</title>", shown)
    assert found, shown[:500]
    return [int(each) for each in found[1].split()]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("which", ["usual", "long names", "everything", "fine-tuned"])
def test_the_page_never_overflows_sideways(written: dict[str, str], width: int, which: str, tmp_path: Path) -> None:
    """With what is folded open."""
    made = {
        "usual": lambda: written["report.html"],
        "long names": _page_of_long_names,
        "everything": _page_of_all,
        "fine-tuned": _page_of_fine_tuned,
    }
    text = made[which]().replace("<details>", "<details open>")
    told = "page.clientWidth, page.scrollWidth, page.querySelectorAll('svg').length"
    inside, needed, figures = _measured(text, width, told, tmp_path)
    assert figures == text.count("<svg")
    assert width - 20 <= inside <= width
    assert needed <= inside


WEAK = [0.20, 0.22, 0.18, 0.23, 0.18]
CONTROL = [0.10, 0.12, 0.08, 0.11, 0.09]
STRONG = [0.80, 0.83, 0.77, 0.82, 0.79]
NOISY = [0.60, -0.40, 0.50, -0.30, 0.20]


class TestTheReading:
    def test_a_clear_gain_over_control_and_untrained(self) -> None:
        told = _read(
            _record("efficientnet-lite0", STRONG), _record("control:view", CONTROL), _record("resnet18@random:0", WEAK)
        )
        assert re.search(
            r"EfficientNet-Lite0 beats the control that sees only the view \(AP or PA\) by 0\.70 MCC", told
        )
        assert re.search(r"EfficientNet-Lite0 beats an untrained ResNet-18 \(seed 0\) by 0\.60 MCC", told)

    def test_no_gain(self) -> None:
        told = _read(
            _record("efficientnet-lite0", NOISY),
            _record("resnet18", [v - 0.1 for v in NOISY]),
            _record("control:view", CONTROL),
        )
        assert told.startswith("No pretrained backbone is distinguishable from the control")
        assert "the best, EfficientNet-Lite0, gains +0.02 MCC (95 % interval \N{MINUS SIGN}0." in told

    def test_several_winners_and_a_rest(self) -> None:
        told = _read(
            _record("efficientnet-lite0", STRONG),
            _record("resnet18", [v - 0.2 for v in STRONG]),
            _record("other", NOISY),
            _record("control:view", CONTROL),
        )
        assert told.startswith("The control that sees only the view (AP or PA) is beaten by several:")
        assert told.index("EfficientNet-Lite0") < told.index("ResNet-18")
        assert told.endswith("1 more is not shown to beat it.")

    def test_twins_are_named_apart(self) -> None:
        records = [_record("resnet18", STRONG, features=key * 64) for key in "fg"]
        told = _read(*records, _record("control:view", CONTROL))
        assert "ResNet-18 (ffff" in told
        assert "ResNet-18 (gggg" in told

    def test_a_control_below_chance_is_said(self) -> None:
        told = _read(_record("resnet18", CONTROL), _record("control:view", [-value for value in STRONG]))
        assert "The control itself is below chance (MCC \N{MINUS SIGN}0.80)" in told
        assert "below chance" not in _read(_record("resnet18", STRONG), _record("control:view", CONTROL))

    def test_worse_than_the_control(self) -> None:
        told = _read(_record("resnet18", CONTROL), _record("control:view", STRONG))
        assert told.startswith("ResNet-18 does worse than the control that sees only the view (AP or PA), by 0.70 MCC")

    def test_untrained_weights_do_as_well(self) -> None:
        told = _read(
            _record("resnet18", NOISY),
            _record("resnet18@random:3", [v + 0.1 for v in NOISY[::-1]]),
            _record("control:view", CONTROL),
        )
        assert "An untrained ResNet-18 (seed 3) does as well as ResNet-18: pretrained minus untrained is" in told
        assert told.endswith("The score does not show that pretraining helps.")

    def test_only_untrained_weights(self) -> None:
        told = _read(_record("resnet18@random:0", NOISY), _record("control:view", CONTROL))
        assert "nothing can be said of pretraining" in told
        assert "pretrained backbone" not in told

    def test_without_a_control_nothing_is_claimed(self) -> None:
        assert _read(_record("resnet18", STRONG)).startswith("No control was run on the same folds")
        assert "probe a backbone" in _read(_record("control:view", STRONG))

    def test_scores_that_are_not_defined(self) -> None:
        empty = [NAN, NAN, NAN]
        records = [_record(name, empty) for name in ("resnet18", "resnet18@random:0", "control:view")]
        told = _read(*records)
        assert "Nothing can be said against the control" in told
        assert "cannot be said" in told
        assert "nan" not in told
        parts = _sections(records)
        plain, shown = markdown(parts, records, {}, "now"), page(parts, records, {}, "now")
        assert words.ABSENT in plain
        assert "fold 1, 2, 3: none of the 10 has the event" in plain
        assert not re.search(r"\bnan\b", plain + shown, re.IGNORECASE)

    def test_a_fold_that_is_left_out_is_said(self) -> None:
        parts = _sections([_record("resnet18", [0.2, NAN, 0.4]), _record("control:view", [0.1, 0.1, 0.2])])
        sheet = scores_sheet(parts[0])
        assert "fold 2: none of the 10 has the event" in "".join(sheet.footnotes.values())
        assert sheet.rows[0][2].mark == "a"

    def test_seeds_are_read_apart(self) -> None:
        records = [
            _record(name, scores, seed=seed, split_digest=f"s{seed}")
            for seed in (0, 1)
            for name, scores in (("resnet18", STRONG if seed else NOISY), ("control:view", CONTROL))
        ]
        (section,) = _sections(records)
        told = sorted(reading(section))
        assert told[0].startswith("Seed 0: ResNet-18 is not distinguishable")
        assert told[1].startswith("Seed 1: ResNet-18 beats")
        assert [column.head for column in scores_sheet(section).columns][2] == "Seed"

    def test_versions_of_a_task_stand_apart(self) -> None:
        parts = _sections([_record("resnet18", NOISY), _record("resnet18", NOISY, task_digest="other")])
        assert [part.anchor for part in parts] == ["T-1", "T-2"]

    def test_a_card_of_other_rows_is_not_shown(self) -> None:
        record = _record("resnet18", NOISY)
        card = {"tasks": {"T": {"images": 51, "patients": 40, "events": 20, "views": {}}}}
        assert _sections([record], {"made-up": card})[0].task_card is None

    def test_overall(self) -> None:
        one = [_record("resnet18", NOISY), _record("control:view", CONTROL)]
        two = [_record("resnet18", STRONG, task="U"), _record("control:view", CONTROL, task="U")]
        assert not overall(_sections(one))
        assert (
            overall(_sections([*one, *two])) == "In 1 of 2 tasks a pretrained backbone beats its strongest control: U."
        )


class TestWords:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.5, "0.50"),
            (-0.5, "\N{MINUS SIGN}0.50"),
            (0.0, "0.00"),
            (-0.0, "0.00"),
            (0.004, "0.004"),
            (NAN, words.ABSENT),
        ],
    )
    def test_number(self, value: float, text: str) -> None:
        assert words.number(value) == text

    def test_signed(self) -> None:
        assert [words.number(each, signed=True) for each in (0.02, 0.0, -0.001)] == [
            "+0.02",
            "0.00",
            "\N{MINUS SIGN}0.001",
        ]

    def test_titles(self) -> None:
        assert words.backbone_title("efficientnet-lite0") == "EfficientNet-Lite0"
        assert words.backbone_title("unknown@random:7") == "unknown, random weights (seed 7)"
        assert words.backbone_title("control:view") == "view only (control)"

    def test_listed(self) -> None:
        assert [words.listed(list("abc")[:size]) for size in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("values", "ends"),
    [([0.31, 0.78], (0.0, 0.8)), ([-0.33, 0.31], (-0.4, 0.4)), ([NAN], (0.0, 0.05)), ([-3.0, 3.0], (-1.0, 1.0))],
)
def test_axis_is_round_and_holds_the_values(values: list[float], ends: tuple[float, float]) -> None:
    axis = Axis.over(values, (-1.0, 1.0))
    assert (axis.low, axis.high) == pytest.approx(ends)
    assert len(axis.ticks) >= 2


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine")
def test_on_a_usual_screen_no_column_of_many_splits_and_strategies_is_out_of_sight(tmp_path: Path) -> None:
    """The last one is the gain, which matters most."""
    null = {**report_kit.NULL, "permutations": 9}
    single = [
        report_kit.tuned("efficientnet-lite0", [0.5], each, scheme="hold-out", null=null) for each in ("LP", "FFT")
    ]
    records = [*report_kit.fine_tuned(), *single]
    text = page(report_kit.tuned_sections(records), records, {}, "now")
    told = "...[...page.querySelectorAll('.scroll')].map(each => each.scrollWidth - each.clientWidth)"
    hidden = _measured(text, 1280, told, tmp_path)
    assert hidden
    assert max(hidden) == 0
