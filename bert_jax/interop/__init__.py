"""Checkpoints of other projects, in and out, by one name table each."""
