"""The command line: one thin file a verb, no logic. Heavy imports stand inside the functions."""
