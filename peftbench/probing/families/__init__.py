"""Families of probes: each turns a training part into models to choose from. Nothing here knows stores or cohorts."""
