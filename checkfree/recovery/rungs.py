"""The rules that lost stages are rebuilt by, best first, by the names that records have.

Each is tried where it is possible: what comes before ``replay`` for whatever strategy, and so does
what comes last; between them, a strategy has some of these or rules of its own. What is exact costs
nothing: no validation tells its price, and nobody waits for something better.
"""

from __future__ import annotations

from typing import NamedTuple

from checkfree.core.ops import Repair
from checkfree.messages.control import CHECKPOINT, HANDOVER, SNAPSHOT

BACK = "back"
REPLICA = "replica"
REDUNDANT_COPY = "redundant copy"
EMBEDDING_COPY = "embedding copy"
REPLAY = "replay"
WAVE = "wave"
SHADOW = "shadow"
PARTNER = "partner copy"
FITTED = "fitted average"
NEAREST = "average"
WEIGHTED = "weighted average"


class LadderRule(NamedTuple):
    """``gives``: what a lost stage becomes; ``needs``: what has to be there. ``exact``: it has the
    very bits again, and nobody else goes back."""

    name: str
    exact: bool
    gives: str
    needs: str


LADDER = (
    LadderRule(BACK, True, "itself", "whoever had it comes back with it, after network trouble"),
    LadderRule(HANDOVER, True, "itself", "whoever had it had handed it on before it left"),
    LadderRule(REPLICA, True, "a twin", "a living replica of the stage"),
    LadderRule(REDUNDANT_COPY, True, "itself", "`redundant`, and the stage before it"),
    LadderRule(
        EMBEDDING_COPY, True, "itself", "`checkfree_plus`; stage 0, and S1 or the last stage"
    ),
    LadderRule(
        REPLAY,
        True,
        "itself, the iterations since its last copy computed once more",
        "its copy, and what its neighbours sent since then or what they are computed from",
    ),
    LadderRule(
        WAVE,
        False,
        "itself as of the last copy, and so do all others",
        "a copy of every stage, at most `recovery.most_rollback` iterations old",
    ),
    LadderRule(SHADOW, False, "itself some iterations ago, without moments", "the shadow's holder"),
    LadderRule(PARTNER, False, "its swap partner", "swap training, and the partner"),
    LadderRule(
        FITTED,
        False,
        "the average of the nearest, fitted to what went in and came out",
        "a body stage, and the stages before and after it",
    ),
    LadderRule(NEAREST, False, "the average of the nearest living stages", "one living body stage"),
    LadderRule(WEIGHTED, False, "the average of its neighbours", "both neighbours"),
    LadderRule(
        CHECKPOINT,
        False,
        "itself at the last checkpoint, and so do all others",
        "`checkpoint.every`, or the strategy `checkpoint`",
    ),
    LadderRule(
        SNAPSHOT,
        False,
        "itself at the last snapshot, and so do all others",
        "a swarm, whatever the strategy",
    ),
)

EXACT = frozenset(rule.name for rule in LADDER if rule.exact)


def is_exact(repair: Repair) -> bool:
    """All that it rebuilds is as it was."""
    return all(recipe.rule in EXACT for recipe in repair.rebuild.values())
