"""The shadows that a seat holds for other stages: packed parts, not stages. Of those that come as
changes it holds what they make of what was there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from checkfree.core.formats import SIGNS
from checkfree.core.ops import Address, Source, Transfer
from checkfree.messages.control import Begin, Kept, Pushed
from checkfree.messages.tensors import KeepShadow, StageState
from checkfree.recovery.shadow.changes import held
from checkfree.recovery.shadow.references import held_as

NEWEST_UNCOUNTED = 1
"""Versions back from an iteration that its lead may not count on yet."""


HEADING = "heading:"
"""Before the names of a change's parts, in a snapshot."""


class Shadows:
    """By stage and version, with the epoch that each came from."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], tuple[int, StageState]] = {}
        self._keeps: dict[tuple[int, int], Transfer] = {}

    def keep(self, message: KeepShadow) -> Kept:
        """File it, unless one of a later epoch is here: that was trained after a rollback. Raises
        ValueError or RuntimeError for a change of what isn't held, or doesn't look like it."""
        place = message.keep.owner.stage, message.state.version
        state = self._changed(message) if message.keep.what == SIGNS else _plain(message.state)
        if place not in self._held or self._held[place][0] <= message.epoch:
            self._held[place] = message.epoch, state
            self._keeps[place] = message.keep
        return Kept(message.epoch, message.keep, message.state.version)

    def _changed(self, message: KeepShadow) -> StageState:
        if message.base is None:
            return held(message.state, None)
        place = message.keep.owner.stage, message.base
        if place not in self._held:
            raise ValueError(f"a change of version {message.base}, which is not held")
        return held(message.state, self._held[place][1])

    def tidy(self, plan: Begin) -> None:
        """Only those that count, and what may count soon."""
        counted = {(shadow.stage, shadow.version) for shadow in plan.shadows}
        late = plan.ticket.iteration - NEWEST_UNCOUNTED
        self._only({place for place in self._held if place in counted or place[1] >= late})

    def roll_back(self, version: int) -> None:
        """Those newer than where training resumes are of another course."""
        self._only({place for place in self._held if place[1] <= version})

    def _only(self, places: Collection[tuple[int, int]]) -> None:
        self._held = {place: held for place, held in self._held.items() if place in places}
        self._keeps = {place: keep for place, keep in self._keeps.items() if place in places}

    def read(self, source: Source) -> StageState | None:
        """A copy of a shadow, if it is held."""
        held = self._held.get((source.of, source.version))
        return None if held is None else _copied(held[1])

    def standing(self) -> tuple[Pushed, ...]:
        """What is held, for a lead that has not counted it."""
        return tuple(
            Pushed(self._keeps[place], place[1], epoch)
            for place, (epoch, _) in sorted(self._held.items(), key=lambda item: item[0])
        )

    def flat(self) -> dict[str, Tensor]:
        """All that is held, as tensors by names that tell what they are."""
        found = {}
        for (stage, version), (epoch, state) in self._held.items():
            owner, holder, what = self._keeps[stage, version]
            place = f"{owner}/{holder}/{version}/{epoch}/{what}"
            numbers = [state.gradient_norm, state.clipped_norm, state.lr_scale, state.since]
            found[f"{place}/"] = torch.tensor(numbers, dtype=torch.float64)
            found |= {f"{place}/{name}": part.clone() for name, part in state.params.items()}
            change = state.heading.items()
            found |= {f"{place}/{HEADING}{name}": part.clone() for name, part in change}
        return found

    def take(self, found: Mapping[str, Tensor]) -> None:
        """Inverse of ``flat``. Raises ValueError for names that it doesn't make."""
        parts: dict[tuple[str, ...], dict[str, Tensor]] = {}
        for key, tensor in found.items():
            words = key.split("/", 5)
            parts.setdefault(tuple(words[:5]), {})[words[5]] = tensor
        for place, named in parts.items():
            owner, holder = map(Address.parse, place[:2])
            version, epoch, what = int(place[2]), int(place[3]), cast(Any, place[4])
            before, after, lr_scale, *since = named.pop("").tolist()  # older snapshots lack it
            heading = {
                name.removeprefix(HEADING): named.pop(name)
                for name in list(named)
                if name.startswith(HEADING)
            }
            state = StageState(named, {}, {}, version, before, after, lr_scale, held_as(what))
            state = replace(state, heading=heading, since=int(since[0]) if since else 0)
            self._held[owner.stage, version] = epoch, state
            self._keeps[owner.stage, version] = Transfer(owner, holder, what)

    def states(self) -> list[StageState]:
        """All that is held."""
        return [state for _, state in self._held.values()]

    def destroy(self) -> None:
        """Lost means lost."""
        for state in self.states():
            state.destroy()


def _plain(state: StageState) -> StageState:
    """A whole copy: it is no change, and has nothing beside it."""
    return _copied(replace(state, heading={}, since=0, held={}))


def _copied(state: StageState) -> StageState:
    """What is held shares no memory with any message."""
    params, heading = (
        {name: part.clone() for name, part in parts.items()}
        for parts in (state.params, state.heading)
    )
    return replace(state, params=params, heading=heading)
