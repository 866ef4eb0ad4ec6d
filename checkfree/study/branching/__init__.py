"""Branching: one state of a run, many rules for a stage lost there, the same data after it."""
