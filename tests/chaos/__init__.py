"""Runs that lose whoever and whatever, in process, at seeded places.

How many there are is a matter of time: a sample of each kind in every CI, and under ``make soak``
(CHECKFREE_SOAK=1) as many as an issue of ours has asked for.
"""

from __future__ import annotations

import os

SOAK = os.environ.get("CHECKFREE_SOAK") == "1"
