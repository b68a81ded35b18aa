"""Pretrained image encoders: their cards, and how each is built and loaded.

Cards and registry import nothing heavy; a loader is named by `module:function` and imported when it is used.
"""
