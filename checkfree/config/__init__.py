"""A configuration: read, checked, and the parts that it names from outside."""
