"""Stored features to predictions. Imports no torch."""
