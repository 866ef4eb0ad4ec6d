"""What a seat of a run is ready to receive, from what the run itself can send."""

from __future__ import annotations

from checkfree.core.config import Config
from checkfree.core.formats import BF16_WEIGHTS, SIGNS
from checkfree.messages.limits import Limits
from checkfree.recovery.options import SHADOW_FORMATS
from checkfree.recovery.shadow.references import held_as
from checkfree.recovery.wrappers import make_strategy
from checkfree.session.sizes import own_sizes

ALIGNED = 64
"""Bytes that a tensor may be filled up with."""

SHADOWS = 6
"""That a seat holds at most: of two stages, the one that counts and two that are newer."""


def limits_of(config: Config) -> Limits:
    """Room for the largest stage with its moments, more than any shadow that is sent, and beside it
    for what its seat holds in a snapshot: activations and shadows, and one microbatch's. A message
    that says to be larger is refused before memory is taken. Raises BadInput."""
    sizes, plain = own_sizes(config), Limits()
    state = max(sizes.state(stage, moments=True) for stage in range(config.stages + 1))
    held = make_strategy(config.recovery, config.checkpoint.every).activation_buffer.memory
    how = SHADOW_FORMATS[config.recovery.shadow_format]
    change = max(sizes.packed[SIGNS]) if how == SIGNS else 0  # a holder has the last one beside it
    shadow = max(sizes.packed[held_as(how)]) + change
    sent = sizes.activation + sizes.gradient
    if config.precision == BF16_WEIGHTS:
        sent *= 2  # some families have hidden states in fp32 even so
    beside = held + SHADOWS * shadow + sent
    padding = ALIGNED * plain.max_tensors
    return Limits(max_message_bytes=state + beside + padding + plain.max_header_bytes)
