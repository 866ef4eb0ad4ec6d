"""Where a lead is between two messages."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """What the lead waits for."""

    IDLE = "idle"
    ROLLCALL = "rollcall"
    ASKING = "asking"
    RUNNING = "running"
    COMMITTING = "committing"
    STORING = "storing"
    HANDING_ON = "handing on"
    REBUILDING = "rebuilding"
    ENDED = "ended"
