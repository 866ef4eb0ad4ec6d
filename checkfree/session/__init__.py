"""The composition root: from a configuration to a run folder that trains, and what else is done
with one. The only room that knows all others below it."""
