"""A dataplane and schedulers for Pointsman, to begin with."""
