"""Streamed images to predictions: which parameters learn is a strategy's, how they learn is written here."""
