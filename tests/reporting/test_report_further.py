"""What follows the scores: several controls, many probes, strata, learning curves, calibration, other cohorts, Cox."""

import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_kit import NULL, STRATA, curve, everything, load, record, sections_of

from peftbench.analysis.results import results_table
from peftbench.protocol.records import Record
from peftbench.reporting import words
from peftbench.reporting.brief import brief
from peftbench.reporting.content import MOST_LEADING, Section, sections
from peftbench.reporting.curves import curve_figures, reliability_figures
from peftbench.reporting.further import Further, further
from peftbench.reporting.markdown import markdown
from peftbench.reporting.methods import methods
from peftbench.reporting.page import page
from peftbench.reporting.plot import folds_figure, gains_figure
from peftbench.reporting.reading import MOST_GROUPS, overall, reading
from peftbench.reporting.sheets import Sheet, glance_sheet, parted, scores_sheet

pytestmark = pytest.mark.slow

WEAK = [0.20, 0.22, 0.18, 0.23, 0.18]
CONTROL = [0.10, 0.12, 0.08, 0.11, 0.09]
STRONG = [0.80, 0.83, 0.77, 0.82, 0.79]
NOISY = [0.60, -0.40, 0.50, -0.30, 0.20]

CONTROLS = [record("control:view", CONTROL), record("control:center", WEAK)]


def only(records: Sequence[Record]) -> Section:
    (section,) = sections_of(records)
    return section


def told(records: Sequence[Record]) -> str:
    return " ".join(reading(only(records)))


def part(section: Section, key: str) -> Further:
    return next(each for each in further(section) if each.key == key)


def text_of(sheet: Sheet) -> list[list[str]]:
    return [[cell.text for cell in row] for row in sheet.rows]


@pytest.fixture(scope="module")
def all_of_it() -> Section:
    return only(everything())


class TestSeveralControls:
    def test_the_strongest_is_named(self) -> None:
        assert told([record("resnet18", STRONG), *CONTROLS]).startswith(
            "ResNet-18 beats the strongest control, which knows only the centre, by 0.60 MCC (95 % interval"
        )

    def test_no_difference_to_the_strongest(self) -> None:
        found = told([record("resnet18", NOISY), *CONTROLS])
        assert "not distinguishable from the strongest control, which knows only the centre: its gain is" in found
        assert ",:" not in found

    def test_every_backbone_is_worse(self) -> None:
        controls = [record("control:view", CONTROL), record("control:center", STRONG)]
        found = told([record("resnet18", WEAK), record("efficientnet-lite0", CONTROL), *controls])
        assert found.startswith(
            "Every backbone does worse than the strongest control, which knows only the centre: the"
        )

    def test_an_unknown_control_is_named_as_it_is(self) -> None:
        records = [record("resnet18", STRONG), record("control:moon", WEAK), CONTROLS[0]]
        assert "the strongest control, 'moon', by" in told(records)

    def test_untrained_weights_are_read_apart_from_the_controls(self) -> None:
        records = [record("resnet18", STRONG), record("resnet18@random:0", [v - 0.02 for v in STRONG]), *CONTROLS]
        found = told(records)
        assert "ResNet-18 beats the strongest control, which knows only the centre, by 0.60 MCC" in found
        assert "ResNet-18 beats an untrained ResNet-18 (seed 0) by 0.02 MCC" in found
        top = next(entry for entry in only(records).entries if entry.kind == "pretrained")
        assert top.row["control"] == "resnet18@random:0"

    def test_clinical_variables_are_set_against_what_was_given_them_alone(self) -> None:
        records = [record("resnet18", STRONG), record("control:clinical", [v + 0.1 for v in STRONG]), *CONTROLS]
        assert told(records).startswith("ResNet-18 beats the strongest control, which knows only the centre")
        both = record("resnet18 + clinical", [v + 0.15 for v in STRONG])
        found = told([*records, both])
        assert "ResNet-18, with clinical variables, beats these variables alone by 0.05 MCC" in found
        assert glance_sheet([only([*records, both])]).rows[0][2].text == "ResNet-18"

    def test_footnotes_say_what_each_gain_is_over(self) -> None:
        records = [record("resnet18", STRONG), record("resnet18@random:0", WEAK), record("other", STRONG), CONTROLS[0]]
        sheet = scores_sheet(only(records))
        assert any(column.head == "Gain over strongest control" for column in sheet.columns)
        assert set(sheet.footnotes.values()) == {"over ResNet-18, random weights (seed 0)", "over view only"}

    def test_one_control_is_named_in_the_head(self) -> None:
        sheet = scores_sheet(only([record("resnet18", STRONG), CONTROLS[0]]))
        assert any(column.head == "Gain over view only" for column in sheet.columns)
        assert not sheet.footnotes

    def test_at_a_glance_names_the_strongest(self) -> None:
        (row,) = text_of(glance_sheet([only([record("resnet18", STRONG), *CONTROLS])]))
        assert row[2:6] == ["ResNet-18", "0.80 ± 0.02", "centre only", "0.20 ± 0.02"]

    @pytest.mark.parametrize(
        ("name", "title"),
        [
            ("control:center", "centre only (control)"),
            ("control:images", "number of images only (control)"),
            ("control:metadata", "view, centre and number of images (control)"),
            ("control:clinical", "clinical variables alone (control)"),
            ("resnet18 + clinical", "ResNet-18, with clinical variables"),
            ("resnet18@random:3 + clinical", "ResNet-18, random weights (seed 3), with clinical variables"),
        ],
    )
    def test_titles(self, name: str, title: str) -> None:
        assert words.backbone_title(name) == title


class TestPermutedLabels:
    def test_p_stands_beside_the_score(self) -> None:
        sheet = scores_sheet(only([record("resnet18", STRONG, null=NULL), record("control:view", CONTROL)]))
        heads = [column.head for column in sheet.columns]
        assert heads.index("p") == heads.index("MCC") + 1
        assert sheet.columns[heads.index("p")].detail == "99 permutations"
        assert [row[heads.index("p")].text for row in sheet.rows] == ["0.01", words.ABSENT]

    def test_several_numbers_of_permutations(self) -> None:
        records = [
            record("resnet18", STRONG, null=NULL),
            record("o", WEAK, null={**NULL, "permutations": 999, "p": 0.001}),
        ]
        sheet = scores_sheet(only(records))
        at = [column.head for column in sheet.columns].index("p")
        assert [row[at].text for row in sheet.rows] == ["0.01 (99 permutations)", "0.001 (999 permutations)"]

    def test_without_permutations_there_is_no_column(self) -> None:
        assert "p" not in [column.head for column in scores_sheet(only([record("resnet18", STRONG)])).columns]


class TestManyProbes:
    def test_the_usual_probe_is_read_and_the_others_are_counted(self, all_of_it: Section) -> None:
        first, second = reading(all_of_it)
        assert first.startswith("Probe logistic: EfficientNet-Lite0 beats the strongest control")
        assert second.startswith("Beside this, 5 other choices of probe were run; under 5 of them")
        assert "as the best of so many it flatters" in second

    def test_few_are_read_one_by_one(self) -> None:
        probes = [f"p{at}" for at in range(MOST_GROUPS)]
        records = [record(name, scores, probe=probe) for probe in probes for name, scores in
                   (("resnet18", STRONG), ("control:view", CONTROL))]  # fmt: skip
        assert len(reading(only(records))) == MOST_GROUPS

    def test_overall_judges_the_usual_probe(self) -> None:
        levels = (("control:view", "logistic", CONTROL), ("control:view", "ridge", CONTROL),
                  ("resnet18", "logistic", NOISY), ("resnet18", "ridge", STRONG))  # fmt: skip
        records = [record(name, scores, task=task, probe=probe, task_digest=task)
                   for task in "TU" for name, probe, scores in levels]  # fmt: skip
        assert overall(sections_of(records)) == (
            "In none of 2 tasks is a pretrained backbone shown to beat its strongest control."
        )

    def test_the_page_folds_the_rest_away(self, all_of_it: Section) -> None:
        leading = all_of_it.leading
        assert len(leading) <= MOST_LEADING < len(all_of_it.entries)
        assert {entry.title for entry in leading} == {entry.title for entry in all_of_it.entries}
        assert leading[0] == all_of_it.entries[0]
        places = [all_of_it.entries.index(entry) for entry in leading]
        assert places == sorted(places)
        text = page([all_of_it], everything(), {}, "now")
        assert f"<summary>{len(all_of_it.entries) - len(leading)} more rows</summary>" in text
        assert folds_figure(all_of_it).count('class="mean') == len(leading)
        assert gains_figure(all_of_it).count('class="bar') == sum(entry.kind != "control" for entry in leading)

    def test_markdown_shows_every_row(self, all_of_it: Section) -> None:
        text = markdown([all_of_it], everything(), {}, "now")
        scores = text.split("**Caveat.**")[1].split("###")[0]
        assert sum(line.startswith("| ") for line in scores.splitlines()) == len(all_of_it.entries) + 2

    def test_few_rows_are_not_folded(self) -> None:
        records = [record("resnet18", STRONG), *CONTROLS]
        assert "<details>" not in page([only(records)], records, {}, "now")

    def test_parts_of_a_table_keep_their_own_footnotes(self, all_of_it: Section) -> None:
        sheet = part(all_of_it, "curve").sheet
        first, rest = parted(sheet, 10)
        assert rest is not None
        assert (*first.rows, *rest.rows) == sheet.rows
        for each in (first, rest):
            assert set(each.footnotes) == {cell.mark for row in each.rows for cell in row} - {""}
            assert all(0 <= at < len(each.rows) for at in each.quiet)
        assert len(first.quiet | {at + 10 for at in rest.quiet}) == len(sheet.quiet)
        assert parted(sheet, len(sheet.rows)) == (sheet, None)


class TestStrata:
    def test_the_best_backbone_beside_untrained_weights_and_the_control(self) -> None:
        levels = {"resnet18": STRONG, "resnet18@random:0": WEAK, "control:view": CONTROL, "other": WEAK}
        records = [record(name, scores, strata=STRATA) for name, scores in levels.items()]
        sheet = part(only(records), "strata").sheet
        assert [column.detail for column in sheet.columns[2:]] == [
            "ResNet-18", "ResNet-18, random weights (seed 0)", "view only (control)",
        ]  # fmt: skip
        assert text_of(sheet)[0] == ["View AP", "25 (10)", *["0.10 ± 0.05"] * 3]
        assert text_of(sheet)[3] == ["Centre B", "25 (10)", *[words.ABSENT] * 3]
        assert list(sheet.footnotes.values()) == ["no fold has both classes there"]

    def test_without_strata_there_is_no_table(self) -> None:
        assert not further(only([record("resnet18", STRONG)]))


def learning(name: str, levels: Sequence[float], regime: str = "few-shot", draws: int = 10) -> list[Record]:
    sizes = [2**at for at in range(1, len(levels) + 1)]
    return [
        record(name, [level + v for v in (0.02, -0.02, 0.01, -0.01, 0)], regime=regime, shots=size, draws=draws)
        for size, level in zip(sizes, levels, strict=True)
    ]


CURVES = [*learning("resnet18", [0.1, 0.5, 0.6]), *learning("control:view", [0.1, 0.1, 0.1])]


class TestLearningCurve:
    def test_the_table_has_a_row_a_number_of_images(self) -> None:
        section = only([record("resnet18", STRONG), *CURVES])
        sheet = part(section, "curve").sheet
        assert [row[1] for row in text_of(sheet)] == ["2", "4", "8"] * 2
        top = section.sampled[0]
        assert text_of(sheet)[2][3] == words.number(top.mcc[0])
        assert text_of(sheet)[2][4] == words.between(float(top.row["mcc_q05"]), float(top.row["mcc_q95"]))
        assert sheet.quiet == {3, 4, 5}
        assert len(section.entries) == 1

    def test_from_when_on_it_beats_the_control(self) -> None:
        said = part(only(CURVES), "curve").texts
        assert said == ("Few-shot: ResNet-18 (logistic) beats its strongest control from 4 images a class on.",)

    def test_a_curve_that_never_does(self) -> None:
        records = [*learning("resnet18", [0.1, 0.5, 0.1]), *learning("control:view", [0.1, 0.1, 0.1])]
        assert part(only(records), "curve").texts[0].endswith("with 8 images a class, the most that were tried.")

    def test_groups_of_other_sizes_are_not_compared(self) -> None:
        section = only(CURVES)
        assert [group[0].record.config.shots for group in section.groups] == [8, 4, 2]
        assert reading(section)[0].startswith("Shots 8: ResNet-18 beats")

    def test_every_point_is_drawn(self) -> None:
        (figure,) = curve_figures(only(CURVES))
        assert figure.drawing.count('class="mean pretrained"') == 3 + 1  # the key has one too
        assert figure.drawing.count('class="mean control"') == 3 + 1
        assert figure.drawing.count('class="range"') == 1
        assert "images a class" in figure.drawing

    def test_a_single_draw_has_no_range(self) -> None:
        section = only([*learning("resnet18", [0.1, 0.5], "reduced", draws=1)])
        (figure,) = curve_figures(section)
        assert 'class="range"' not in figure.drawing
        assert "images in all" in figure.drawing
        assert "one draw only" in part(section, "curve").sheet.footnotes.values()

    def test_one_point_is_no_figure(self) -> None:
        assert curve_figures(only(learning("resnet18", [0.3]))) == []

    def test_regimes_stand_in_their_order(self, all_of_it: Section) -> None:
        assert [figure.lead for figure in curve_figures(all_of_it)] == ["Reduced.", "Few-shot."]
        assert [text.split(":")[0] for text in part(all_of_it, "curve").texts] == ["Reduced", "Few-shot"]

    def test_folds_are_drawn_as_means_of_their_draws(self) -> None:
        (entry,) = only(learning("resnet18", [0.3])).entries
        assert len(entry.folds) == 5
        assert np.mean([value.mcc for value in entry.folds]) == pytest.approx(entry.mcc[0])


class TestCalibration:
    def test_the_best_backbone_is_drawn(self) -> None:
        bins = curve(0.4)
        section = only([record("resnet18", STRONG, reliability=bins), record("other", WEAK, reliability=bins)])
        (figure,) = reliability_figures(section)
        assert figure.drawing.count("<circle") == len(bins)
        assert figure.caption.startswith("ResNet-18: ")
        found = part(section, "calibration")
        assert text_of(found.sheet) == [["ResNet-18", "0.80 ± 0.02", "0.80 ± 0.02"]]
        assert found.texts == (
            "At a threshold tuned on the validation part, ResNet-18 has an MCC of 0.80 ± 0.02; at 0.5 it has 0.80 ± "
            "0.02.",
        )

    def test_without_a_curve_there_is_nothing(self) -> None:
        assert reliability_figures(only([record("resnet18", STRONG)])) == []


class TestAnotherCohort:
    def test_scores_there_stand_beside_those_at_home(self, all_of_it: Section) -> None:
        sheet = part(all_of_it, "external").sheet
        assert sheet.caption.startswith("Fitted on T, tested on OTHER")
        top = max(all_of_it.external, key=lambda entry: entry.mcc[0])
        assert text_of(sheet)[0][0] == top.title
        assert re.fullmatch(r"0\.\d\d \(0\.\d\d to 0\.\d\d\)", text_of(sheet)[0][1])
        home = next(e for e in all_of_it.entries if e.title == top.title and e.record.config.probe == "logistic")
        assert text_of(sheet)[0][2] == words.spread(*home.mcc)

    def test_the_score_lies_within_its_interval(self, all_of_it: Section) -> None:
        for entry in all_of_it.external:
            low, mean, high = (float(entry.row[f"mcc_{each}"]) for each in ("low", "mean", "high"))
            assert low < mean < high

    def test_it_is_said_who_was_tested_and_who_was_removed(self, all_of_it: Section) -> None:
        first, second = part(all_of_it, "external").texts
        assert first == (
            "And there? 120 images of 60 patients, 30 of them with the event; scores of the models of all folds are "
            "averaged. Left out because T holds them too: 3 images of 2 patients."
        )
        assert "its strongest control there (" in second

    def test_these_rows_do_not_mix_with_the_tasks_own(self, all_of_it: Section) -> None:
        assert all(not entry.record.config.external for entry in all_of_it.entries)
        assert all_of_it.facts["question"] == "Why?"

    def test_a_task_that_was_only_tested_elsewhere(self) -> None:
        records = [record(name, STRONG, external="OTHER") for name in ("resnet18", "control:view")]
        parts = sections_of(records)
        plain, shown = markdown(parts, records, {}, "now"), page(parts, records, {}, "now")
        for text in (plain, shown):
            assert "tested on OTHER" in text
            assert not re.search(r"\bnan\b", text, re.IGNORECASE)
        assert "Not run there" in plain

    def test_without_predictions_there_is_no_interval(self) -> None:
        records = [record(name, STRONG, external="OTHER") for name in ("resnet18", "control:view")]
        (section,) = sections(records, results_table(records), {})
        assert "no interval" in part(section, "external").sheet.footnotes.values()


COX = [
    record(name, scores, probe="cox", strategy="probe")
    for name, scores in (("resnet18", STRONG), ("control:view", WEAK))
]


class TestTime:
    def test_cox_rows_have_a_table_of_their_own(self) -> None:
        section = only([*COX, record("resnet18", NOISY)])
        assert [entry.record.config.probe for entry in section.entries] == ["logistic"]
        sheet = part(section, "survival").sheet
        assert text_of(sheet) == [["ResNet-18", "0.80 ± 0.02", "+0.60 (0.58 to 0.62)"],
                                  ["view only (control)", "0.20 ± 0.02", "reference"]]  # fmt: skip

    def test_cox_rows_alone(self) -> None:
        parts = sections_of(COX)
        for text in (markdown(parts, COX, {}, "now"), page(parts, COX, {}, "now")):
            assert "c-index" in text
            assert not re.search(r"\bnan\b", text, re.IGNORECASE)


class TestMethods:
    def test_only_what_was_used_is_explained(self) -> None:
        plain = {each.term for each in methods([record("resnet18", STRONG)])}
        every = {each.term for each in methods(everything())}
        more = {"Other probes", "Reduced", "Few-shot", "Draws", "p", "Strata", "Calibration", "Another cohort",
                "Clinical variables", "c-index"}  # fmt: skip
        assert every - plain == more
        assert plain - every == set()

    def test_what_was_permuted_is_told_as_the_records_have_it(self) -> None:
        text = next(each.text for each in methods([record("a", STRONG, null=NULL)]) if each.term == "p")
        assert "Labels of the test patients were permuted." in text
        assert "{" not in text

    def test_what_each_control_is_given(self) -> None:
        one, several = (
            next(each.text for each in methods(records) if each.term == "Control")
            for records in (CONTROLS[:1], CONTROLS)
        )
        assert "nothing but the view (AP, PA or other)." in one
        assert "strongest" not in one
        assert "in turn nothing but: the view (AP, PA or other); the centre." in several
        assert "it is, if anything, too small" in several


class TestSafety:
    def test_names_are_escaped_everywhere(self) -> None:
        evil = "<script>alert('x')</script>&\"|"
        strata = [{**STRATA[0], "value": evil}]
        records = [
            record(name, STRONG, probe=probe, strata=strata, reliability=curve(), null={**NULL, "how": evil})
            for probe in ("logistic", evil) for name in (evil, f"{evil}@random:0", f"control:{evil}")
        ]  # fmt: skip
        records += [record(evil, STRONG, probe=evil, regime=evil, shots=size, draws=3) for size in (2, 4)]
        records += [record(evil, STRONG, external=evil, facts={"question": evil})]
        parts = sections_of(records)
        text, plain = page(parts, records, {}, evil), markdown(parts, records, {}, evil)
        assert "<script" not in text + plain
        assert "&quot;|" in text
        rows = [line for line in plain.splitlines() if line.startswith("|")]
        assert rows
        assert all("\\|" in line or "script" not in line for line in rows)

    def test_the_page_is_well_formed_and_identifiers_are_unique(self, all_of_it: Section) -> None:
        found = Identifiers(page([all_of_it], everything(), {}, "now"))
        assert not found.open
        assert len(found.names) == len(set(found.names))
        assert not re.search(r"\bnan\b", found.text, re.IGNORECASE)


class Identifiers(HTMLParser):
    """Tags that are left open, identifiers, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names += [value or "" for key, value in attrs if key == "id"]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def brief_of_all(folder: Path) -> set[str]:
    """How each row is told, of however many there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peftbench.reporting.brief.MOST", 1000)
        return {row[2] for row in brief(folder / "results.csv").rows}


def test_the_terminal_tells_rows_apart(tmp_path: Path) -> None:
    records = everything()
    results_table(records, load).to_csv(tmp_path / "results.csv", index=False)
    table = brief(tmp_path / "results.csv")
    assert len(table.rows) + table.left_out == len(records)
    assert table.left_out
    assert {row[0] for row in table.rows} == {"T", "T on OTHER"}
    usual = [row[2] == "LP" for row in table.rows if row[0] == "T"]
    assert sum(usual) >= 3, "those of the linear probe come first"
    assert brief_of_all(tmp_path) >= {"LP", "ridge", "cox", "LP, few-shot 8", "LP, reduced 128"}
    assert not any("nan" in cell for row in table.rows for cell in row)


def test_shown() -> None:
    assert [words.shown(value) for value in (8.0, 8, None, math.nan, "k", 0.5)] == [
        "8", "8", words.ABSENT, words.ABSENT, "k", "0.5",
    ]  # fmt: skip
