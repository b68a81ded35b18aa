"""The spine that both doors share: words, manifest, tasks, splits, metrics, records, and where things lie.

Imports no torch and knows nothing of models or of how pictures are decoded.
"""
