"""What was fine-tuned in the report: beside the probes, what it cost, and the figure of its training."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import report_kit
from report_kit import NULL, STRATA, curve, fine_tuned, history_of, load, record, tuned, tuned_sections, write

from peftbench.analysis.results import COLUMNS, results_table
from peftbench.errors import RecordError
from peftbench.protocol.records import Record
from peftbench.protocol.workspace import Workspace
from peftbench.reporting import words
from peftbench.reporting.brief import brief
from peftbench.reporting.content import Section
from peftbench.reporting.courses import Course, courses_of
from peftbench.reporting.curves import curve_figures, reliability_figures
from peftbench.reporting.finetuned import cost_sheet, cost_words, settings_sheet
from peftbench.reporting.further import Further, further
from peftbench.reporting.markdown import markdown
from peftbench.reporting.methods import methods
from peftbench.reporting.page import page
from peftbench.reporting.plot import folds_figure, shaded_control
from peftbench.reporting.reading import reading
from peftbench.reporting.report import report
from peftbench.reporting.sheets import Sheet, features_sheet, glance_sheet, scores_sheet
from peftbench.reporting.training import (
    MOST_FIGURES,
    MOST_POINTS,
    caption,
    spoken,
    standalone,
    training_drawing,
    training_figures,
    write_curve,
)

WEAK = [0.20, 0.22, 0.18, 0.23, 0.18]
CONTROL = [0.10, 0.12, 0.08, 0.11, 0.09]
STRONG = [0.80, 0.83, 0.77, 0.82, 0.79]

CONTROLS = [record("control:view", CONTROL)]

SVG = "{http://www.w3.org/2000/svg}"

EVIL = "<script>alert('x')</script>&\"|\x07"


def only(records: Sequence[Record]) -> Section:
    (section,) = tuned_sections(records)
    return section


def told(records: Sequence[Record]) -> str:
    return " ".join(reading(only(records)))


def part(section: Section, key: str) -> Further:
    return next(each for each in further(section) if each.key == key)


def column(sheet: Sheet, head: str) -> list[str]:
    at = [each.head for each in sheet.columns].index(head)
    return [row[at].text for row in sheet.rows]


@pytest.fixture(scope="module")
def all_of_it() -> Section:
    return only(fine_tuned())


class TestBesideTheProbes:
    def test_the_table_tells_them_apart(self) -> None:
        records = [tuned("resnet18", STRONG), tuned("resnet18", WEAK, "LP"), record("resnet18", WEAK), *CONTROLS]
        sheet = scores_sheet(only(records))
        shown = list(zip(column(sheet, "Strategy"), column(sheet, "Probe"), strict=True))
        assert shown[0] == ("LoRA r8", "trained head")
        assert set(shown[1:3]) == {("LP", "trained head"), ("LP", "logistic")}

    def test_settings_tell_twins_apart(self) -> None:
        records = [
            tuned("resnet18", STRONG),
            tuned("resnet18", WEAK, set_={"epochs": 9}),
            tuned("resnet18", WEAK, "LP"),
        ]
        section = only(records)
        assert column(scores_sheet(section), "Settings") == ["epochs 6", "epochs 9", ""]
        assert [entry.name for entry in section.entries] == [
            "ResNet-18 (LoRA r8, epochs 6)", "ResNet-18 (LoRA r8, epochs 9)", "ResNet-18 (trained LP)",
        ]  # fmt: skip

    def test_settings_within_a_setting(self) -> None:
        flips = [{"augmentation": {"flip": flip, "zoom": 0.1}} for flip in (True, False)]
        section = only([tuned("resnet18", STRONG, set_=each) for each in flips])
        assert column(scores_sheet(section), "Settings") == ["augmentation flip yes", "augmentation flip no"]
        section = only([tuned("resnet18", STRONG, set_=each) for each in (flips[0], {})])
        assert column(scores_sheet(section), "Settings") == ["augmentation yes", "augmentation none"]

    def test_many_settings_are_counted(self) -> None:
        other = {"epochs": 9, "learning_rate": 1.0, "choose_by": "mcc", "augmentation": {"flip": True}}
        section = only([tuned("resnet18", STRONG), tuned("resnet18", WEAK, set_=other)])
        assert column(scores_sheet(section), "Settings")[0].endswith(", 1 more")

    def test_it_is_set_against_the_controls_of_its_folds(self) -> None:
        found = told([tuned("resnet18", STRONG), record("resnet18", WEAK), *CONTROLS])
        first, second = found.split("Fine-tuned: ")
        assert first.startswith("Probe logistic: ResNet-18 beats the control that sees only the view")
        assert second.startswith("ResNet-18 (LoRA r8) beats the control that sees only the view (AP or PA) by 0.70 MCC")
        assert "ResNet-18 (LoRA r8) beats its linear probe by 0.60 MCC (95 % interval" in second

    def test_it_does_not_beat_its_probe(self) -> None:
        found = told([tuned("resnet18", WEAK), record("resnet18", STRONG), *CONTROLS])
        assert "ResNet-18 (LoRA r8) does worse than its linear probe: the difference is \N{MINUS SIGN}0.60" in found

    def test_without_a_probe_it_is_not_known(self) -> None:
        found = told([tuned("resnet18", STRONG), *CONTROLS])
        assert found.startswith("ResNet-18 (LoRA r8) beats the control")
        assert "No linear probe of ResNet-18 was run on the same folds" in found
        assert "Only" not in found

    def test_one_fold_is_not_enough(self) -> None:
        found = told([tuned("resnet18", STRONG[:1]), record("resnet18", WEAK[:1]), record("control:view", CONTROL[:1])])
        assert "Whether ResNet-18 (LoRA r8) does better than its linear probe cannot be said" in found

    def test_many_groups_are_counted_but_these_two(self, all_of_it: Section) -> None:
        probes = [record(name, scores, probe=probe, strategy="probe") for probe in ("ridge", "knn", "centroid")
                  for name, scores in (("resnet18", WEAK), ("control:view", CONTROL))]  # fmt: skip
        first, second, third = reading(only([tuned("resnet18", STRONG), record("resnet18", WEAK), *CONTROLS, *probes]))
        assert first.startswith("Probe logistic: ")
        assert second.startswith("Fine-tuned: ")
        assert third.startswith("Beside this, 3 other choices of probe were run; under 3 of them")

    def test_at_a_glance_both_are_shown(self) -> None:
        records = [tuned("resnet18", STRONG), record("resnet18", WEAK), *CONTROLS]
        sheet = glance_sheet([only(records)])
        assert [row[0].text for row in sheet.rows] == ["T", "T, fine-tuned"]
        assert [row[2].text for row in sheet.rows] == ["ResNet-18", "ResNet-18 (LoRA r8)"]
        assert [row[4].text for row in sheet.rows] == ["view only"] * 2
        assert page([only(records)], records, {}, "now").count('<a href="#T">') == 2
        (row,) = glance_sheet([only([tuned("resnet18", STRONG), *CONTROLS])]).rows
        assert (row[0].text, row[2].text, row[4].text) == ("T", "ResNet-18 (LoRA r8)", "view only")

    def test_figures_tell_the_strategy_and_mark_it(self, all_of_it: Section) -> None:
        drawing = folds_figure(all_of_it)
        assert drawing.count('<path class="mean') == sum(entry.tuned for entry in all_of_it.leading)
        assert all(f">{name}</tspan>" in drawing for name in ("LoRA r4", "trained LP", "logistic"))
        assert shaded_control(all_of_it) is not None

    def test_strata_and_reliability_name_the_strategy(self, all_of_it: Section) -> None:
        names = ["ResNet-18 (logistic)", "ResNet-18 (FFT)"]
        heads = [each.detail for each in part(all_of_it, "strata").sheet.columns[2:]]
        assert heads == [*names, "ResNet-18, random weights (seed 0) (logistic)", "centre only (control)"]
        assert column(part(all_of_it, "calibration").sheet, "Backbone")[:2] == names
        assert [figure.caption.split(":")[0] for figure in reliability_figures(all_of_it)] == names
        alone = only([tuned("resnet18", STRONG, strata=STRATA, reliability=curve())])
        assert part(alone, "strata").sheet.columns[2].detail == "ResNet-18 (LoRA r8)"

    def test_learning_curves_hold_both(self, all_of_it: Section) -> None:
        (figure,) = curve_figures(all_of_it)
        for name in ("ResNet-18 (LoRA r8)", "ResNet-18 (logistic)", "view only (control)"):
            assert f">{name}</text>" in figure.drawing
        assert figure.drawing.count('class="mean pretrained tuned"') == 3 + 1  # the key has one too
        sheet = part(all_of_it, "curve").sheet
        assert set(column(sheet, "Strategy")) == {"LoRA r8", "LP"}
        assert part(all_of_it, "curve").texts[0].startswith("Few-shot: ResNet-18 (LoRA r8)")

    def test_another_cohort_stands_beside_home(self) -> None:
        elsewhere = {"external": "OTHER", "external_digest": "o", "set_": {"fold_models": "averaged"}}
        records = [tuned("resnet18", STRONG), tuned("resnet18", STRONG, skill=0.2, **elsewhere), *CONTROLS]
        section = only(records)
        (row,) = part(section, "external").sheet.rows
        assert words.spread(*section.entries[0].mcc) in [cell.text for cell in row]
        assert [entry.record.config.external for entry in section.tuned] == [""]

    def test_another_cohorts_control_is_named(self) -> None:
        elsewhere = {"external": "OTHER", "external_digest": "o"}
        records = [tuned("resnet18", STRONG, skill=0.9, **elsewhere), record("control:view", CONTROL, **elsewhere)]
        assert "its strongest control there (view only)" in part(only(records), "external").texts[-1]

    def test_of_many_rows_each_backbone_leads_both_ways(self) -> None:
        records = [tuned("resnet18", [v - 0.01 * at for v in STRONG], f"LoRA r{at + 1}") for at in range(20)]
        leading = only([*records, record("resnet18", WEAK)]).leading
        assert {entry.tuned for entry in leading} == {True, False}

    def test_the_terminal_names_the_strategy(self, tmp_path: Path) -> None:
        results_table(fine_tuned(), load).to_csv(tmp_path / "results.csv", index=False)
        assert {row[2] for row in brief(tmp_path / "results.csv").rows} >= {"LP", "trained LP", "LoRA r8", "FFT"}


class TestMethods:
    def test_what_learns_is_said(self) -> None:
        found = {each.term: each.text for each in methods([tuned("resnet18", STRONG), *CONTROLS])}
        assert "LoRA (low-rank adaptation; Hu et al. 2021)" in found["Fine-tuning"]
        assert "the lowest balanced log loss" in found["Fine-tuning"]
        assert "VeRA" not in found["Fine-tuning"]
        assert "A control has nothing to fine-tune" in found["Control"]
        assert "{" not in found["Fine-tuning"]

    def test_a_trained_head_is_no_linear_probe(self) -> None:
        assert "Linear probe (LP)" not in {each.term for each in methods([tuned("resnet18", STRONG, "LP")])}
        text = next(each.text for each in methods([tuned("a", STRONG, "LP"), record("a", STRONG)]) if "LP" in each.term)
        assert "C is chosen from 2 values" in text

    def test_where_features_come_from(self) -> None:
        sheet = features_sheet([tuned("resnet18", STRONG), tuned("resnet18", WEAK, "FFT")])
        assert "backbones that were fine-tuned" in sheet.caption
        assert column(sheet, "Feature key") == ["fine-tuned"]


class TestCost:
    def test_the_table(self) -> None:
        (row,) = cost_sheet(only([tuned("resnet18", STRONG), record("resnet18", WEAK)])).rows
        assert [cell.text for cell in row] == [
            "ResNet-18", "LoRA r8", "2,562 (0.0759 %)", "30 (5)", "2.00", "12.50", "1.50", "cpu, fp32",
        ]  # fmt: skip

    def test_a_gpu_has_its_columns(self) -> None:
        gpu = {"device": "NVIDIA H100", "precision": "bf16", "gpu_memory_mb": 12_345.0, "energy_joules": 250_000.0}
        section = only([tuned("resnet18", STRONG, cost=gpu), tuned("resnet18", WEAK, "FFT")])
        sheet = cost_sheet(section)
        assert column(sheet, "Energy") == ["250", words.ABSENT]
        assert [row[-3].text for row in sheet.rows] == ["12.35", words.ABSENT]
        assert list(sheet.footnotes.values()) == ["not measured there"]
        assert "NVIDIA H100 and cpu) do not compare" in cost_words(section)[0]

    def test_few_images_stand_apart(self, all_of_it: Section) -> None:
        assert set(column(cost_sheet(all_of_it), "Regime")) == {"full", "few-shot 2", "few-shot 4", "few-shot 8"}
        assert "20)" in column(cost_sheet(all_of_it), "Epochs")[-1]

    def test_a_record_that_says_nothing(self) -> None:
        bare = tuned("resnet18", STRONG).model_copy(update={"cost": {}})
        (row,) = cost_sheet(only([bare])).rows
        assert [cell.text for cell in row[2:]] == [words.ABSENT] * 6

    def test_settings_that_all_share_are_told_once(self) -> None:
        rates = [tuned("resnet18", STRONG, "FFT", set_={"learning_rate": 1e-4}), tuned("resnet18", STRONG),
                 tuned("resnet18", STRONG, set_={"epochs": 9})]  # fmt: skip
        rows = [[cell.text for cell in row] for row in settings_sheet(only(rates)).rows]
        assert ["Choose by", "log-loss", "all"] in rows
        assert ["Learning rate", "0.0001", "FFT"] in rows
        assert ["Learning rate", "0.001", "LoRA r8"] in rows
        assert ["Epochs", "9", "ResNet-18 (LoRA r8, epochs 9), k-fold"] in rows

    def test_columns_of_the_csv(self) -> None:
        assert COLUMNS[-5:] == ("trainable_parameters", "trainable_percent", "epochs", "seconds", "peak_memory_mb")
        table = results_table([tuned("resnet18", STRONG), record("resnet18", WEAK)])
        assert table.iloc[0][list(COLUMNS[-5:])].tolist() == [2562.0, 0.0759, 30.0, 120.0, 1500.0]
        assert table.iloc[1][list(COLUMNS[-5:])].isna().all()

    def test_a_probe_has_its_seconds(self) -> None:
        cost = {"seconds": {"fit": 1.5, "score and write": 0.5}, "peak_memory_mb": 200.0}
        (row,) = results_table([record("resnet18", WEAK).model_copy(update={"cost": cost})]).to_dict("records")
        assert (row["seconds"], row["peak_memory_mb"]) == (2.0, 200.0)
        assert np.isnan(row["trainable_parameters"])


def courses(made: Record, **shape: int) -> tuple[Course, ...]:
    return courses_of(history_of(made, **shape), made)


def parsed(made: Record, found: Sequence[Course]) -> ET.Element:
    return tree_of(standalone(made, found))


def tree_of(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - it was written here


def classes(tree: ET.Element) -> list[str]:
    return [each.get("class", "") for each in tree.iter()]


class TestTheFigure:
    def test_it_is_well_formed_and_tells_the_kept_epochs(self) -> None:
        made = tuned("resnet18", STRONG, kept=4)
        tree = parsed(made, courses(made))
        assert tree.findtext(f"{SVG}title") == "ResNet-18 (LoRA r8), T, k-fold"
        description = tree.findtext(f"{SVG}desc") or ""
        assert re.findall(r"fold (\d): kept epoch (\d) of (\d)", description) == [
            (str(at), "4", "6") for at in range(1, 6)
        ]
        assert classes(tree).count("kept") == 1 + 2 * 5  # the key, and each fold in both panels
        assert classes(tree).count("course train") == 1 + 5
        assert "var(" not in standalone(made, courses(made))

    def test_the_head_that_was_kept_is_drawn(self) -> None:
        made = tuned("resnet18", STRONG, kept=2)
        first = courses(made)[0]
        assert first.kept == 2
        assert first.frame.loc[2, "train_loss"] == pytest.approx(0.35)
        assert first.frame.loc[2, "validation_loss"] == pytest.approx(0.4)
        assert first.epochs == 6

    def test_marks_lie_on_the_lines(self) -> None:
        made = tuned("resnet18", STRONG[:1], kept=777, set_={"epochs": 1000})
        text = training_drawing(made, courses(made, epochs=1000), "name")
        paths = re.findall(r'class="course validation" d="([^"]+)"', text)
        assert all(len(re.findall("[ML]", each)) <= MOST_POINTS + 2 for each in paths)
        marks = re.findall(r'class="kept" d="M([\d.]+) ([\d.]+)l', text)[1:]
        for (x, y), line in zip(marks, paths, strict=True):
            assert f"{float(x) + 5.5:.1f} {y}" in line

    def test_one_epoch_is_a_point(self) -> None:
        made = tuned("resnet18", STRONG, kept=1)
        found = classes(parsed(made, courses(made, epochs=1)))
        assert found.count("point train") == 5
        assert found.count("course train") == 1

    def test_hundreds_of_draws_are_a_median_and_a_range(self) -> None:
        made = tuned("resnet18", STRONG, regime="few-shot", shots=4, draws=100)
        found = courses(made)
        assert len(found) == 500
        shapes = classes(parsed(made, found))
        assert sum(each.startswith("course") for each in shapes) == 2 + 3 + 1  # key, medians, kept epochs
        assert shapes.count("range") == 2
        assert shapes.count("band") == 1
        assert "median of 500 trainings" in caption(found)
        assert spoken(found).startswith("500 trainings: kept epochs from 3 to 3, median 3")
        assert len(standalone(made, found)) < 20_000

    def test_the_median_ends_where_half_of_the_trainings_do(self) -> None:
        made = tuned("resnet18", STRONG, regime="few-shot", shots=4, draws=2)
        history = history_of(made)
        stopped = history["fold"].isin([0, 1, 2]) & (history["epoch"] > 4)
        text = standalone(made, courses_of(history[~stopped], made))
        line = re.findall(r'class="course validation" d="([^"]+)"', text)[0]
        assert len(re.findall("[ML]", line)) == 4

    def test_epochs_without_a_look_have_no_point(self) -> None:
        made = tuned("resnet18", STRONG[:1], kept=4)
        history = history_of(made)
        history.loc[history["epoch"] % 2 == 1, ["validation_loss", "validation_mcc"]] = np.nan
        text = training_drawing(made, courses_of(history, made), "name")
        assert [len(re.findall("[ML]", each)) for each in re.findall(r'validation" d="([^"]+)"', text)] == [3, 3]
        assert "nan" not in text

    def test_without_an_mcc_there_is_one_panel(self) -> None:
        made = tuned("resnet18", STRONG)
        history = history_of(made).assign(validation_mcc=np.nan)
        found = courses_of(history, made)
        assert "MCC on validation" not in "".join(parsed(made, found).itertext()).replace(spoken(found), "")

    def test_a_loss_far_out_does_not_flatten_the_rest(self) -> None:
        made = tuned("resnet18", STRONG, set_={"epochs": 100})
        history = history_of(made, epochs=100)
        history.loc[0, "train_loss"] = 400.0
        text = training_drawing(made, courses_of(history, made), "name")
        assert "Loss (what is higher lies at the edge)" in text
        assert ">400</text>" not in text

    def test_names_cannot_break_it(self) -> None:
        made = tuned(EVIL, STRONG, EVIL, task=EVIL)
        text = standalone(made, courses(made))
        tree_of(text)
        assert "<script" not in text
        assert "\x07" not in text

    def test_rates_that_the_history_shortens(self) -> None:
        made = tuned("resnet18", STRONG)
        told = [{**score, "chosen": {**score["chosen"], "head_learning_rate": 0.0010000004}} for score in made.scores]
        (first, *_) = courses(made.model_copy(update={"scores": told}))
        assert first.frame.loc[3, "validation_loss"] == pytest.approx(0.6)


class TestThePage:
    @pytest.mark.slow
    def test_the_section(self, all_of_it: Section) -> None:
        records = fine_tuned()
        text, plain = page([all_of_it], records, {}, "now"), markdown([all_of_it], records, {}, "now")
        assert "<h3>Fine-tuning</h3>" in text
        assert "<details><summary>Settings</summary>" in text
        assert f"<summary>{len(all_of_it.tuned) - 3} more figures</summary>" in text
        assert text.count("Training of ResNet-18") == len(all_of_it.tuned)
        assert "### Fine-tuning" in plain
        assert "| Learning rate" in plain
        names = re.findall(r' id="([^"]+)"', text)
        assert len(names) == len(set(names))
        assert not re.search(r"\bnan\b", text + plain, re.IGNORECASE)

    def test_without_history_there_is_no_figure(self) -> None:
        records = [tuned("resnet18", STRONG), *CONTROLS]
        (section,) = report_kit.sections_of(records)
        assert training_figures(section) == []
        assert "Training of" not in page([section], records, {}, "now")

    def test_without_fine_tuning_there_is_no_section(self) -> None:
        section = only([record("resnet18", STRONG), *CONTROLS])
        assert "fine-tuning" not in [each.key for each in further(section)]

    def test_hundreds_of_records_are_not_all_drawn(self) -> None:
        section = only([tuned("resnet18", STRONG, f"LoRA r{at}") for at in range(1, 31)])
        assert len(training_figures(section)) == MOST_FIGURES
        assert len(cost_sheet(section).rows) == 30

    def test_names_are_escaped(self) -> None:
        evil = EVIL.replace("\x07", "")
        records = [tuned(evil, STRONG, strategy, task=evil, cost={"device": evil}, strata=STRATA, null=NULL,
                         set_={"choose_by": "mcc", evil: evil}) for strategy in ("LP", evil)]  # fmt: skip
        parts = tuned_sections(records)
        text, plain = page(parts, records, {}, evil), markdown(parts, records, {}, evil)
        assert "<script" not in text + plain


class TestTheFile:
    def test_it_is_written_beside_the_history(self, tmp_path: Path) -> None:
        made = tuned("resnet18", STRONG)
        folder = write(made, Workspace(tmp_path), history=history_of(made))
        path = write_curve(folder)
        assert path == folder / "history.svg"
        assert tree_of(path.read_text()).tag == f"{SVG}svg"

    def test_it_is_not_written_twice_for_one_history(self, tmp_path: Path) -> None:
        made = tuned("resnet18", STRONG)
        folder = write(made, Workspace(tmp_path), history=history_of(made))
        path = write_curve(folder)
        assert path is not None
        path.write_text("as it was")
        assert write_curve(folder) == path
        assert path.read_text() == "as it was"
        later = path.stat().st_mtime + 10
        os.utime(folder / "history.csv", (later, later))
        write_curve(folder)
        assert path.read_text().startswith("<?xml")

    def test_an_external_validation_has_none(self, tmp_path: Path) -> None:
        folder = write(tuned("resnet18", STRONG, external="OTHER"), Workspace(tmp_path))
        assert write_curve(folder) is None
        assert not (folder / "history.svg").exists()

    def test_a_history_that_cannot_be_read(self, tmp_path: Path) -> None:
        made = tuned("resnet18", STRONG)
        folder = write(made, Workspace(tmp_path), history=pd.DataFrame({"other": [1]}))
        with pytest.raises(RecordError, match=r"history\.csv cannot be read"):
            write_curve(folder)
        with pytest.raises(RecordError, match="delete its folder"):
            report(workspace=tmp_path)

    def test_the_verb_embeds_what_the_folders_hold(self, tmp_path: Path) -> None:
        place = Workspace(tmp_path)
        made = [tuned("resnet18", STRONG), tuned("resnet18", WEAK, "FFT")]
        write(made[0], place, history=history_of(made[0]))
        for each in (made[1], record("resnet18", WEAK), *CONTROLS):
            write(each, place)
        result = report(workspace=place)
        text = Path(result.html).read_text()
        assert text.count("Training of ResNet-18 (LoRA r8)") == 1
        assert "Training of ResNet-18 (FFT)" not in text
        table = pd.read_csv(result.tables[1])
        assert tuple(table.columns) == COLUMNS
        assert table["trainable_parameters"].dropna().tolist() == [2562.0] * 2
        assert not list(place.results.rglob("*.svg"))
