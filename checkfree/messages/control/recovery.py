"""A seat that is rebuilt, and what it asks others for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from checkfree.core.ops import Address, Recipe, Source
from checkfree.messages.control.aside import CHECKPOINT
from checkfree.messages.control.ticket import Message


@dataclass(frozen=True)
class Rebuild(Message):
    """lead -> worker: become what the strategy makes of these sources."""

    epoch: int
    life: int
    recipe: Recipe
    tick: int
    resume_at: int


@dataclass(frozen=True)
class StateRequest(Message):
    """worker -> the holder of a source. The store sends what it has, moments or not, of the
    ``area`` of its archives."""

    epoch: int
    reply_to: Address
    source: Source
    moments: bool = True
    area: str = CHECKPOINT


@dataclass(frozen=True)
class BoundaryRequest(Message):
    """worker -> whoever may hold what went into ``stage`` or came out of it: your newest, please,
    at most ``pairs`` of each."""

    epoch: int
    reply_to: Address
    stage: int
    pairs: int


@dataclass(frozen=True)
class Rebuilt(Message):
    """worker -> lead. ``problem`` says why it failed, ``bad`` which sources were no good;
    ``rejected``: the sources are good, and what the rule made of them isn't. ``check`` has the
    figures that this was judged by."""

    epoch: int
    life: int
    sender: Address
    weights: tuple[float, ...] = ()
    bytes: int = 0
    problem: str = ""
    bad: tuple[Source, ...] = ()
    rejected: bool = False
    check: Mapping[str, float] = field(default_factory=dict)
