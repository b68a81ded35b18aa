"""A cohort as a view onto stored rows: sample ids of a manifest, each naming the image it is a picture of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stores.errors import RowsMissingError, StoreMismatchError, StoreNotFoundError

if TYPE_CHECKING:
    from stores.features import Features, FeatureStore


class CohortView:
    """The rows of a feature store by a cohort's sample ids; two samples may share a row."""

    def __init__(self, store: "FeatureStore", samples: Mapping[str, str]) -> None:
        self._store = store
        self.samples = dict(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def missing(self) -> list[str]:
        """Sample ids whose image has no row yet."""
        lacking = set(self._store.missing(self.samples.values()))
        return [sample for sample, image in self.samples.items() if image in lacking]

    def load(self, samples: Sequence[str] | None = None, output: str = "embedding") -> "Features":
        """The rows of samples in the order given; by default all, in the cohort's order.

        Raises:
            RowsMissingError: a sample is not of the cohort, or its image has no row.
        """
        wanted = list(self.samples) if samples is None else list(samples)
        unknown = [sample for sample in wanted if sample not in self.samples]
        if unknown:
            raise RowsMissingError(
                f"{len(unknown)} of {len(wanted)} samples are not of this cohort, the first is {unknown[0]!r}: "
                "its sample ids are in the manifest"
            )
        found = self._store.load([self.samples[sample] for sample in wanted], output)
        return found._replace(ids=wanted)


def read_samples(manifest: Path) -> dict[str, str]:
    """Sample id to image digest, of a cohort's `manifest.parquet`, in its order.

    Raises:
        StoreNotFoundError: there is no such file.
        StoreMismatchError: it is no manifest.
    """
    import pyarrow as pa  # noqa: PLC0415 - features alone are read without it
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(manifest, columns=["sample_id", "image_digest"])
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"there is no manifest at {manifest}: `peftbench prepare` writes it") from error
    except (OSError, pa.ArrowException) as error:
        raise StoreMismatchError(f"{manifest} is no cohort's manifest ({error}): expected manifest.parquet") from error
    columns = table.to_pydict()
    return dict(zip(columns["sample_id"], columns["image_digest"], strict=True))
