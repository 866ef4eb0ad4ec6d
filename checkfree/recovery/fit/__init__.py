"""Fitted rebuilds, with all their sides: ``plan`` (who is asked for what), ``activations`` (what
each seat holds of the last iterations), ``boundary`` (those as tensors, and as messages),
``local_steps`` (what is made of them)."""
