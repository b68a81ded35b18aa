"""Which parameters of a backbone learn."""
