"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)  # nothing is asserted of time, load or not
settings.load_profile("patient")
