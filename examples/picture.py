"""What do the embeddings group by? PCA and, where umap-learn is installed, UMAP, coloured by a label.

python examples/picture.py STORE MANIFEST --label view --to picture.png
"""

import argparse
from importlib.util import find_spec
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from stores import open_features

mpl.use("Agg")  # a file is drawn, no window
import matplotlib.pyplot as plt

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7A5195", "#6B8E23"]
"""Told apart by colour-blind readers as well (after Okabe and Ito)."""

OTHERS, UNKNOWN = "#707070", "#CFCFCF"


def main() -> None:
    """Write the picture."""
    asked = arguments()
    samples = pd.read_parquet(asked.manifest)
    store = open_features(asked.store)
    features, _ = store.view(asked.manifest).load(output=asked.output)
    scaled = StandardScaler().fit_transform(features.reshape(len(features), -1))
    panels = [pca(scaled), umap(scaled)] if find_spec("umap") else [pca(scaled)]
    size = (5.2 * len(panels) + 1.4, 5.4)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained", dpi=150)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    for axis, panel in zip(axes[0], panels, strict=True):
        colours = scatter(axis, panel, samples[asked.label])
    entries = axes[0][0].get_legend_handles_labels()
    if entries[0]:
        place = "upper right" if colours else "outside right upper"
        figure.legend(*entries, title=asked.label, loc=place, frameon=False, alignment="left")
    if colours:
        figure.colorbar(colours, ax=axes, label=asked.label, shrink=0.6).outline.set_visible(False)
    counts = f"{len(samples):,} X-rays of {samples['patient_id'].nunique():,} patients"
    figure.suptitle(f"{store.recipe.architecture}, {asked.output}\n{counts}", x=0.012, ha="left", fontsize=11)
    figure.savefig(asked.to)
    print(f"wrote {asked.to}: {' and '.join(panel.name for panel in panels)} by {asked.label}")


class Panel(NamedTuple):
    """Points, (n, 2), and what their axes are."""

    name: str
    points: Any
    across: str
    up: str


def pca(features: Any) -> Panel:
    """Two principal components, and what share of the variance each has."""
    model = PCA(2, svd_solver="full").fit(features)
    first, second = (f"{share:.0%} of the variance" for share in model.explained_variance_ratio_)
    return Panel("PCA", model.transform(features), first, second)


def umap(features: Any) -> Panel:
    """Two dimensions that keep neighbours together; how far groups are from each other means little."""
    from umap import UMAP

    model = UMAP(n_neighbors=min(15, len(features) - 1), metric="cosine", random_state=0, n_jobs=1)
    return Panel("UMAP", model.fit_transform(features), "", "")


def scatter(axis: Any, panel: Panel, label: pd.Series) -> Any:
    """Draw a panel; answers what a colour bar needs, where the label is a number of many values."""
    look = {"s": 28, "linewidth": 0.5, "edgecolor": "white", "alpha": 0.9}
    axis.set_title(panel.name, loc="left", fontsize=11, fontweight="bold")
    axis.set(xticks=[], yticks=[])
    axis.set_xlabel(panel.across, labelpad=8)
    axis.set_ylabel(panel.up, labelpad=8)
    axis.spines[["top", "right"]].set_visible(False)
    text = label.astype(str).mask(label.isna() | (label.astype(str) == ""))
    if pd.api.types.is_numeric_dtype(label) and label.nunique() > len(COLOURS):
        groups, known = {}, text.notna().to_numpy()
        colours = axis.scatter(*panel.points[known].T, c=label[known], cmap="viridis", zorder=2, **look)
    else:
        groups, colours = dict(zip(text.value_counts().index, COLOURS, strict=False)), None
        text = text.where(text.isin([*groups]) | text.isna(), "others")
    for value, colour in [*groups.items(), ("others", OTHERS), (None, UNKNOWN)]:
        here = (text.isna() if value is None else text == value).to_numpy(dtype=bool)
        if here.any() and (groups or value is None):
            # What the colours tell of lies on top.
            axis.scatter(
                *panel.points[here].T,
                color=colour,
                label=f"{value or 'not known'} ({here.sum():,})",
                zorder=2 if value in groups else 1,
                **look,
            )
    return colours


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="folder or address of a feature store")
    parser.add_argument("manifest", help="the cohort's manifest.parquet")
    parser.add_argument("--label", default="view", help="column of the manifest (default: view)")
    parser.add_argument("--output", default="embedding", help="which stored output (default: embedding)")
    parser.add_argument("--to", default="picture.png", help="file to write (default: picture.png)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
