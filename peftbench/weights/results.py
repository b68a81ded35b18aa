"""What the verbs of `peftbench weights` answer."""

import pandas as pd

from peftbench.protocol.results import Result


class WeightsRow(Result):
    """The weights of one backbone, as far as can be told without reading their bytes.

    Attributes:
        backbone: its name.
        state: `cached`, `found` (on this machine, not converted yet), `absent`, `damaged`, or `none` for a backbone
            that has no pretrained weights.
        where: for people: what the state means here.
        path: of the file on this machine; null where there is none.
        bytes: its length; null where there is none.
        megabytes: about the size of the published file; null where there is none.
        source: where the weights come from; of cached ones, where they came from.
        revision: the commit or release.
        licence: of the weights.
        sha256: of the published file as it was read; empty where it was not.
        stated_sha256: what its publisher states, or the start of it; empty where nothing is stated.
        marks: what a user must know before trusting them.
    """

    backbone: str
    state: str
    where: str
    path: str | None
    bytes: int | None
    megabytes: int | None
    source: str
    revision: str
    licence: str
    sha256: str
    stated_sha256: str
    marks: list[str]


class WeightsListing(Result):
    """The weights of all backbones, or of those that were named."""

    folder: str
    weights: list[WeightsRow]

    @property
    def frame(self) -> pd.DataFrame:
        """One row a backbone."""
        return pd.DataFrame([row.model_dump() for row in self.weights], columns=list(WeightsRow.model_fields))


class FetchedRow(Result):
    """What was done for one backbone.

    Attributes:
        backbone: its name.
        how: `cached` (there already), `converted` (from a file on this machine), `downloaded`, or `adopted` (from the
            file that was named).
        path: of the cached tensors.
        bytes: their length.
        tensors: their number.
        source: where they come from.
        revision: the commit that a hub resolved.
        source_sha256: of the original file.
        sha256: of the cached tensors.
    """

    backbone: str
    how: str
    path: str
    bytes: int
    tensors: int
    source: str
    revision: str
    source_sha256: str
    sha256: str


class FetchResult(Result):
    """What `fetch` did, one row a backbone."""

    weights: list[FetchedRow]


class WeightsVerdict(Result):
    """Whether one backbone's cached weights are sound; `faults` says what is wrong with them."""

    backbone: str
    path: str
    bytes: int
    tensors: int
    sound: bool
    faults: list[str]
    seconds: float


class WeightsVerifyResult(Result):
    """Whether cached weights are sound."""

    sound: bool
    weights: list[WeightsVerdict]


class BundleResult(Result):
    """What was packed.

    Attributes:
        path: of the archive.
        bytes: its length.
        sha256: of the whole archive, to be compared where it arrives.
        backbones: whose weights are in it.
        files: what is in it.
    """

    path: str
    bytes: int
    sha256: str
    backbones: list[str]
    files: list[str]


class ImportedRow(Result):
    """What was done with one backbone of an archive: `imported`, `replaced`, or `cached` (the same were there)."""

    backbone: str
    how: str
    bytes: int
    sha256: str
    source: str


class ImportResult(Result):
    """What came out of an archive.

    Attributes:
        path: of the archive.
        sha256: of the whole archive.
        made_by: version of peftbench that packed it.
        weights: one row a backbone.
    """

    path: str
    sha256: str
    made_by: str
    weights: list[ImportedRow]
