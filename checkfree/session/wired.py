"""What a configuration leaves to us, as the formats of slow links, chosen before a run begins: so
its records have it."""

from __future__ import annotations

from dataclasses import replace

from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.links import AUTO, render_links
from checkfree.session.auto_schedule import with_schedule
from checkfree.session.routing import network_of
from checkfree.session.terms import scheduler_of, seats


def with_choices(config: Config) -> Config:
    """With its schedule and the formats of its links, as far as they are to be chosen. Raises
    BadInput."""
    return with_links(with_schedule(config))


def with_links(config: Config) -> Config:
    """With the link formats that ``wire.links=auto`` leaves to the configured fleet; as it is, if
    they are given, or were chosen before. Raises BadInput."""
    if config.wire.links != (AUTO,):
        return config
    network = network_of(config, seats(config), scheduler_of(config))
    links = (AUTO, *render_links(network.sizes.links))
    return replace(config, wire=replace(config.wire, links=links))


def check_given(config: Config) -> None:
    """Raise BadInput if a swarm is to choose, and nobody has measured its lines: those of a fleet's
    preset are none of its own."""
    if config.wire.links == (AUTO,) and config.fleet.links is None:
        raise BadInput(
            "wire.links=auto chooses by lines that are known before a run, and this swarm's are "
            "not: have them measured by checkfree profile --links RUN, for fleet.links=FILE; or "
            "name the slow ones, as in wire.links=[0.0>1.0=int8,1.0>0.0=int8]; or give "
            "wire.activations=int8 and wire.gradients=int8 to all"
        )
