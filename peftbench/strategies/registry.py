"""The six strategies of the benchmark."""

from pydantic import BaseModel, ConfigDict


class StrategyCard(BaseModel):
    """A way to adapt a backbone.

    Attributes:
        name: as in tables and paths.
        title: written out.
        learns: which parameters.
        source: where it was described.
        runs_in: the verbs that run it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    learns: str
    source: str
    runs_in: str


STRATEGIES: dict[str, StrategyCard] = {
    card.name: card
    for card in (
        StrategyCard(
            name="LP",
            title="linear probing",
            learns="a linear classifier on the frozen embedding",
            source="Alain and Bengio 2016",
            runs_in="probe, finetune",
        ),
        StrategyCard(name="FFT", title="full fine-tuning", learns="everything", source="-", runs_in="finetune"),
        StrategyCard(
            name="LoRA",
            title="low-rank adaptation",
            learns="low-rank updates of weight matrices, and the head",
            source="Hu et al. 2021",
            runs_in="finetune",
        ),
        StrategyCard(
            name="VeRA",
            title="vector-based random matrix adaptation",
            learns="scaling vectors of shared random low-rank matrices, and the head",
            source="Kopiczko et al. 2023",
            runs_in="finetune",
        ),
        StrategyCard(
            name="BitFit",
            title="bias tuning",
            learns="all biases, and the head",
            source="Ben Zaken et al. 2021",
            runs_in="finetune",
        ),
        StrategyCard(
            name="IA3",
            title="inhibiting and amplifying inner activations",
            learns="scaling vectors of keys, values and feed-forward layers, and the head",
            source="Liu et al. 2022",
            runs_in="finetune",
        ),
    )
}
