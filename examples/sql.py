"""Ask a cohort and its features in SQL: DuckDB on the Parquet file that an export is.

    python examples/sql.py STORE MANIFEST --label icu --to features.parquet

`peftbench store export STORE --cohort COHORT --to features.parquet` writes such a file as well.
"""

import argparse
from pathlib import Path

import duckdb
import pandas as pd

from stores import Table, open_features, write_parquet

QUESTIONS = {
    "images and patients by label": """
        select label, count(*) as images, count(distinct patient_id) as patients
        from x group by label order by images desc""",
    "patients with most images": """
        select patient_id, count(*) as images, string_agg(distinct "view", ', ' order by "view") as views
        from x group by patient_id order by images desc, patient_id limit 5""",
    "features whose mean differs most between labels": """
        with numbers as (select label, unnest(embedding) as value, generate_subscripts(embedding, 1) as feature from x),
             means as (select feature, label, avg(value) as mean from numbers group by all)
        select feature, round(min(mean), 3) as lowest, round(max(mean), 3) as highest
        from means group by feature order by max(mean) - min(mean) desc, feature limit 5""",
}


def main() -> None:
    """Write the file if it is not there, and print the answers to three questions."""
    asked = arguments()
    if not Path(asked.to).exists():
        export(asked.store, asked.manifest, Path(asked.to))
    # One name for the label, whatever it is called, so that the questions need not change.
    duckdb.read_parquet(asked.to).project(f'*, "{asked.label}" as label').create_view("x")
    for title, question in QUESTIONS.items():
        print(f"\n{title}\n{duckdb.sql(question).df().to_string(index=False)}")


def export(where: str, manifest: str, to: Path) -> None:
    """Write a cohort's rows and columns as Parquet."""
    store, samples = open_features(where), pd.read_parquet(manifest)
    features, ids = store.view(manifest).load()
    told = {"store_key": store.recipe.key, "store_digest": store.digest}
    write_parquet(Table(ids, samples["image_digest"].tolist(), {"embedding": features}, samples, told), to)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="folder or address of a feature store")
    parser.add_argument("manifest", help="the cohort's manifest.parquet")
    parser.add_argument("--label", default="view", help="column of the manifest (default: view)")
    parser.add_argument("--to", default="features.parquet", help="the export (default: features.parquet)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
