"""What the verbs answer is JSON: NaN and infinity are null, everything else is as it was."""

import json
import math

from hypothesis import example, given, settings
from hypothesis import strategies as st

from peftbench.protocol.results import ProbeResult, ProbeRow, json_ready
from stores.keys import canonical_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=10,
)

ROW = ProbeRow(
    task="TOY", backbone="control:view", probe="logistic", regime="full", scheme="k-fold", folds=3, shots=None,
    draws=1, external="", mcc_mean=0.25, mcc_std=float("nan"), pr_auc_mean=0.5, pr_auc_std=0.125, mcc_low=0.0,
    mcc_high=0.5, mcc_tuned_mean=0.25, mcc_tuned_std=0.0, mcc_q05=0.0, mcc_q95=0.5, mcc_worst_decile=0.0,
    c_index_mean=0.5, c_index_std=0.0, prevalence=0.5, control="", gain_mean=0.0, gain_low=-0.5, gain_high=0.5,
    p_value=0.5, record="there",
)  # fmt: skip


def with_null(value: object) -> object:
    """The same by a second way: through text, with Python's own spelling of NaN and infinity replaced."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


@given(value=VALUES)
@example(value={"a": [float("inf"), (-float("inf"), float("nan"))]})
@settings(deadline=None, max_examples=100)
def test_whatever_is_answered_has_a_text_in_json(value: object) -> None:
    assert json.loads(canonical_json(json_ready(value))) == with_null(value)


def test_a_row_keeps_its_numbers_and_loses_its_nan() -> None:
    found = ProbeResult(results=[ROW]).to_json()["results"][0]
    assert found["mcc_std"] is None
    assert found == {**ROW.model_dump(), "mcc_std": None}


def test_the_frame_of_an_answer_has_a_row_each() -> None:
    frame = ProbeResult(results=[ROW, ROW]).frame
    assert frame["mcc_mean"].tolist() == [0.25, 0.25]
    assert math.isnan(frame["mcc_std"][0])
