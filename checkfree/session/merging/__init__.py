"""Averages of the states that a run has saved: which weigh how much, and what text says so."""
