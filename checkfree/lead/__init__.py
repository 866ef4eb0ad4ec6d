"""The lead: begins iterations, commits them, orders repairs. No tensor, no I/O."""

from checkfree.lead.lead import Lead, Phase
from checkfree.lead.progress import Progress, Terms

__all__ = ["Lead", "Phase", "Progress", "Terms"]
