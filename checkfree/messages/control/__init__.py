"""Messages without tensors: between lead, workers, store and runtime.

``Ticket`` fences work on one iteration, ``epoch`` everything that belongs to one repair: both
only grow, so whatever a message of an older one says is dropped. ``life`` counts who has sat at
an address: Lost(w, 0) may arrive after Joined(w, 1), and must not take the new one with it.
"""

from checkfree.messages.control.aside import (
    CHECKPOINT,
    HANDOVER,
    RESUME,
    SNAPSHOT,
    WEIGHTS,
    Archive,
    Archived,
    Copy,
    Kept,
    Push,
    Pushed,
    Withdraw,
)
from checkfree.messages.control.events import (
    BreakOff,
    Dismissed,
    Due,
    Gone,
    HandedOn,
    Joined,
    Leaving,
    Lost,
    Note,
    Severed,
    Stays,
    Stop,
    Struck,
)
from checkfree.messages.control.iteration import Abort, Begin, Commit, Prepared, Stepped
from checkfree.messages.control.recovery import BoundaryRequest, Rebuild, Rebuilt, StateRequest
from checkfree.messages.control.takeover import Rollcall, Standing
from checkfree.messages.control.ticket import Message, Outgoing, Purpose, Ticket

__all__ = [
    "CHECKPOINT",
    "HANDOVER",
    "RESUME",
    "SNAPSHOT",
    "WEIGHTS",
    "Abort",
    "Archive",
    "Archived",
    "Begin",
    "BoundaryRequest",
    "BreakOff",
    "Commit",
    "Copy",
    "Dismissed",
    "Due",
    "Gone",
    "HandedOn",
    "Joined",
    "Kept",
    "Leaving",
    "Lost",
    "Message",
    "Note",
    "Outgoing",
    "Prepared",
    "Purpose",
    "Push",
    "Pushed",
    "Rebuild",
    "Rebuilt",
    "Rollcall",
    "Severed",
    "Standing",
    "StateRequest",
    "Stays",
    "Stepped",
    "Stop",
    "Struck",
    "Ticket",
    "Withdraw",
]
