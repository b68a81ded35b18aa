"""Statistics on records: pure functions, frames in and frames out. Imports no torch."""
