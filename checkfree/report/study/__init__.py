"""The report of a comparison: ``model`` is what it is made from, ``write`` writes it."""
