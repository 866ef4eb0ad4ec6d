"""The composition root: from a configuration to a run. The only room that knows all others."""
