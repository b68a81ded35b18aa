"""Who trains, validates and tests, and on how much: decided here for every path of the benchmark.

The unit of division is the patient, or patients who share images (`units`); no unit is ever in two roles of a fold.
Everything is ordered by a digest of (seed, task, purpose, name), not by a generator's stream: a division depends on
nothing but those words, on any machine and under any version of numpy. A split is saved with its digest, and held
against its law (`Split.check`) before anybody uses it. `make_split` is the one door for schemes, `find_split` for
whatever a user names; `Draws` has the support sets.
"""

from peftbench.protocol.splits.choosing import SCHEMES, find_split, is_scheme, make_split
from peftbench.protocol.splits.dealing import carve, shuffled
from peftbench.protocol.splits.draws import Draws, Regime, center_few_shot, few_shot, largest_shots, reduced
from peftbench.protocol.splits.holdout import hold_out
from peftbench.protocol.splits.kfold import (
    FEWEST_FOLDS,
    HONEST_TEST_EVENTS,
    VALIDATION_SHARE,
    k_fold,
    ratio_of_test_to_train,
)
from peftbench.protocol.splits.loco import LOCO_VALIDATION_SHARE, loco
from peftbench.protocol.splits.own import Rename, load_own, own_names, own_path, split_from_file
from peftbench.protocol.splits.split import ROLES, UNUSED, Role, Split, load
from peftbench.protocol.splits.units import GROUP, home_centers, patient_events, unit_centers, unit_events, units

__all__ = [
    "FEWEST_FOLDS",
    "GROUP",
    "HONEST_TEST_EVENTS",
    "LOCO_VALIDATION_SHARE",
    "ROLES",
    "SCHEMES",
    "UNUSED",
    "VALIDATION_SHARE",
    "Draws",
    "Regime",
    "Rename",
    "Role",
    "Split",
    "carve",
    "center_few_shot",
    "few_shot",
    "find_split",
    "hold_out",
    "home_centers",
    "is_scheme",
    "k_fold",
    "largest_shots",
    "load",
    "load_own",
    "loco",
    "make_split",
    "own_names",
    "own_path",
    "patient_events",
    "ratio_of_test_to_train",
    "reduced",
    "shuffled",
    "split_from_file",
    "unit_centers",
    "unit_events",
    "units",
]
