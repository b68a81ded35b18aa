"""Names that records are told apart by: controls, untrained weights, clinical variables, the headline's fold."""

CONTROL_PREFIX = "control:"
"""Begins the name of what must be beaten for a score to mean anything."""

VIEW_CONTROL = f"{CONTROL_PREFIX}view"

CENTER_CONTROL = f"{CONTROL_PREFIX}center"

IMAGES_CONTROL = f"{CONTROL_PREFIX}images"

METADATA_CONTROL = f"{CONTROL_PREFIX}metadata"

CLINICAL_CONTROL = f"{CONTROL_PREFIX}clinical"
"""What a backbone together with clinical variables must beat; a backbone alone is not set against it."""

RANDOM_MARK = "@random:"
"""Between the name of an architecture and the seed of its untrained weights."""

WITH_CLINICAL = " + clinical"
"""Ends the name of a backbone whose features were probed together with clinical variables."""

COX = "cox"
"""The probe of a time, which is judged by concordance."""

HEADLINE = -1
"""The fold of an external validation that stands for the models of all folds together."""

TRAINED = "trained head"
"""Stands in the place of a probe's name in the records of `finetune`: a linear head, trained on streamed images."""

LOGISTIC = "logistic"
"""The probe that linear probing (LP) is, on stored features."""
