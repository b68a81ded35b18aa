"""Which X-rays does a backbone hold to be most like this one? Nearest neighbours by cosine, with their labels.

python examples/neighbours.py STORE MANIFEST SAMPLE --show view icu
"""

import argparse

import numpy as np
import pandas as pd

from stores import open_features


def main() -> None:
    """Print the X-ray asked for, then its neighbours, the nearest first."""
    asked = arguments()
    samples = pd.read_parquet(asked.manifest)
    features, ids = open_features(asked.store).view(asked.manifest).load()
    sample = asked.sample or ids[0]
    if sample not in ids:
        raise SystemExit(f"{sample} is not a sample of {asked.manifest}: one is {ids[0]}")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit[ids.index(sample)]
    found = samples[["sample_id", "patient_id", *asked.show]].assign(cosine=cosine.astype(float))
    mine = found["sample_id"] == sample
    if asked.other_patients:
        found = found[mine | (found["patient_id"] != found.loc[mine, "patient_id"].item())]
    # The sample itself first, whatever rounding makes of its cosine.
    found = found.assign(itself=mine).sort_values(["itself", "cosine"], ascending=False).drop(columns="itself")
    print(found.head(asked.count + 1).to_string(index=False, float_format="%.4f"))


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="folder or address of a feature store")
    parser.add_argument("manifest", help="the cohort's manifest.parquet")
    parser.add_argument("sample", nargs="?", help="a sample_id of the manifest (default: the first)")
    parser.add_argument("--count", type=int, default=5, help="neighbours to show (default: 5)")
    parser.add_argument("--show", nargs="*", default=["view"], help="columns of the manifest (default: view)")
    parser.add_argument("--other-patients", action="store_true", help="leave out other images of the same patient")
    return parser.parse_args()


if __name__ == "__main__":
    main()
