"""Does an embedding tell an outcome? A scikit-learn pipeline, cross-validated so that no patient is in two folds.

python examples/sklearn_pipeline.py STORE MANIFEST --label icu
"""

import argparse

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stores import open_features


def main() -> None:
    """Print each score's mean and standard deviation over the folds."""
    asked = arguments()
    samples = pd.read_parquet(asked.manifest)
    samples = samples[samples[asked.label].astype(str).isin([asked.event, asked.no_event])]
    features, _ = open_features(asked.store).view(asked.manifest).load(samples["sample_id"].tolist())
    event = samples[asked.label].astype(str) == asked.event
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, class_weight="balanced", max_iter=2000))
    # GroupKFold that also spreads the events over the folds: with few of them some fold would have none.
    folds = StratifiedGroupKFold(asked.folds, shuffle=True, random_state=0)
    scoring = {"MCC": "matthews_corrcoef", "PR-AUC": "average_precision", "ROC-AUC": "roc_auc"}
    scores = cross_validate(model, features, event, groups=samples["patient_id"], cv=folds, scoring=scoring)
    print(f"{len(samples)} images of {samples['patient_id'].nunique()} patients, prevalence {event.mean():.2f}")
    for name in scoring:
        print(f"{name:8} {scores[f'test_{name}'].mean():.2f} ± {scores[f'test_{name}'].std():.2f}")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="folder or address of a feature store")
    parser.add_argument("manifest", help="the cohort's manifest.parquet")
    parser.add_argument("--label", required=True, help="column of the manifest")
    parser.add_argument("--event", default="yes", help="value that is to be predicted (default: yes)")
    parser.add_argument(
        "--no-event", default="no", help="the other value; rows with neither are left out (default: no)"
    )
    parser.add_argument("--folds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
