"""What crosses a wire: frozen dataclasses. ``control`` knows no torch, ``tensors`` does."""
