"""Where a lead is between two messages, and every way from one phase to the next.

``MOVES`` is the whole of it: the lead goes no other way, the documentation shows this table, and a
test sees each row happen (``tests/chaos/test_phases.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class Phase(Enum):
    """What the lead waits for."""

    IDLE = "idle"
    """Nothing: it chooses what comes next, or waits for somebody to take an empty seat."""
    ROLLCALL = "rollcall"
    """Every member of a run that another lead began says how it stands."""
    ASKING = "asking"
    """Whoever injects failures says who is struck at this tick."""
    RUNNING = "running"
    """All workers are prepared: the gradient is computed, or the validation loss."""
    COMMITTING = "committing"
    """All workers have taken the step that was decided."""
    STORING = "storing"
    """The store has a checkpoint, a snapshot, or the final weights."""
    HANDING_ON = "handing on"
    """The state of whoever leaves is in good hands."""
    REBUILDING = "rebuilding"
    """All lost seats have been rebuilt."""
    ENDED = "ended"
    """Nothing more: the run is done, has failed, or was stopped."""


_P = Phase

MOVES: Mapping[tuple[Phase, Phase], str] = MappingProxyType(
    {
        (_P.ROLLCALL, _P.IDLE): "all have answered; a step that was decided is taken by everybody",
        (_P.ROLLCALL, _P.ENDED): "stopped before all had answered",
        (_P.IDLE, _P.HANDING_ON): "somebody leaves, and has a state that nobody else has",
        (_P.IDLE, _P.REBUILDING): "a seat has no state worth training, and a repair is planned",
        (_P.IDLE, _P.STORING): "a checkpoint, a snapshot or the final weights are due",
        (_P.IDLE, _P.ASKING): "an iteration is due, and this tick's failures are not known",
        (_P.IDLE, _P.RUNNING): "an iteration is due and nobody was struck, or a validation is due",
        (_P.IDLE, _P.ENDED): "done, or with no finite loss; stopped; or lost beyond repair",
        (_P.ASKING, _P.IDLE): "the answer is there: nobody was struck, or they are lost now",
        (_P.RUNNING, _P.COMMITTING): "all are prepared: from here on the step is taken by all",
        (_P.RUNNING, _P.IDLE): "validated; or given up, for a loss, a line that broke or a leaver",
        (_P.RUNNING, _P.ENDED): "a loss or a gradient is not finite",
        (_P.COMMITTING, _P.IDLE): "all have stepped: one more iteration is committed",
        (_P.STORING, _P.IDLE): "it is stored; or given up, for a loss, or weights in doubt",
        (_P.HANDING_ON, _P.IDLE): "it is handed on; or given up, for a loss",
        (_P.REBUILDING, _P.IDLE): "all are rebuilt; or planned anew, for a loss or who has joined",
        (_P.REBUILDING, _P.ENDED): "no rule that is left can rebuild a stage",
    }
)
"""(from, to): when. A stop takes RUNNING, ASKING, HANDING_ON and REBUILDING to IDLE, too."""
