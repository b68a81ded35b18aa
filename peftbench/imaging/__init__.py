"""From bytes to pixels, and from pixels to what a backbone takes.

`decode` runs without torch (preparing a cohort needs none); `transform` imports it when it is used.
"""
