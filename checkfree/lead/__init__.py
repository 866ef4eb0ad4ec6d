"""The lead: begins iterations, commits them, orders repairs. No tensor, no I/O."""

from checkfree.lead.departures import Handed, note_of, states_of
from checkfree.lead.history import History, history
from checkfree.lead.lead import Lead
from checkfree.lead.phase import Phase
from checkfree.lead.progress import Progress, Terms
from checkfree.lead.takeover import Takeover

__all__ = [
    "Handed",
    "History",
    "Lead",
    "Phase",
    "Progress",
    "Takeover",
    "Terms",
    "history",
    "note_of",
    "states_of",
]
