"""All probes and controls by name."""

from peftbench.probing.inputs import VIEW_CONTROL

PROBES: dict[str, str] = {
    "logistic": "L2-regularised logistic regression, balanced classes, C chosen on validation: the LP",
}
"""What `--probe` takes."""

CONTROLS: dict[str, str] = {
    VIEW_CONTROL: "the same probe on the view (AP, PA) alone; runs beside every probe unless --no-control",
}
"""What runs beside every probe."""
