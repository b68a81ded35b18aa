"""CoCross: outcome of intensive care. No public copy could be found, so this is a preset over anybody's table.

Say with the options of `prepare` how your copy differs: where the table and the images lie, and how columns are called.
"""

from peftbench.cohorts.declaration import Cohort, Label, Sheet
from peftbench.protocol.tasks import Task

COHORT = Cohort(
    name="cocross",
    title="CoCross",
    source="the CoCross study, from its authors; see Ruffini et al., doi 10.1016/j.cmpb.2025.109196",
    licence="from its authors",
    table=Sheet(files=("*.csv", "*.xlsx")),
    match="stem",
    key="ID",
    patient="ID",
    labels={"death": Label(column="ICU Outcome", event=("Death",), no_event=("Alive",))},
    tasks=(
        Task(
            name="CC",
            cohort="cocross",
            question="Will the patient die in intensive care, from any image?",
            label="death",
            outcome="death",
        ),
    ),
)
