"""What is put aside, as the lead keeps count of it: exact copies, and archives of the store."""

from __future__ import annotations

from collections.abc import Collection

from checkfree.core.ops import STORE, Address, Mirror, Upload
from checkfree.lead.membership import first_seats
from checkfree.lead.progress import Progress
from checkfree.messages.control import Archive, Archived, Outgoing, Push


class Keeping:
    """``current`` are the exact copies that their holders have of the committed version: stepped
    with each commit, so they stay current until owner or holder changes."""

    def __init__(self) -> None:
        self.current: set[Mirror] = set()
        self._awaited: set[Mirror | str] = set()

    @property
    def waiting(self) -> bool:
        """States are still under way."""
        return bool(self._awaited)

    def give_up(self) -> None:
        """What is under way will not be waited for."""
        self._awaited = set()

    def lose(self, holder: Address) -> None:
        """What it held is gone; copies of it elsewhere are what it is rebuilt from."""
        self.current = {keep for keep in self.current if keep.holder != holder}

    def replace(self, seats: Collection[Address]) -> None:
        """These are new: neither what they hold nor copies of them are current."""
        self.current = {k for k in self.current if k.owner not in seats and k.holder not in seats}

    def kept(self, mirror: Mirror) -> None:
        """Its holder has it."""
        self.current.add(mirror)
        self._awaited.discard(mirror)

    def expect(self, area: str) -> None:
        """An archive is under way that was ordered elsewhere."""
        self._awaited.add(area)

    def archived(self, message: Archived) -> None:
        self._awaited.discard(message.area)

    def refresh(self, wanted: Collection[Mirror], progress: Progress) -> list[Outgoing]:
        """Orders for the exact copies that their holders don't have: whole states, once."""
        self.current &= set(wanted)
        missing = sorted(set(wanted) - self.current)
        self._awaited |= set(missing)
        epoch, version = progress.epoch, progress.committed
        return [(keep.owner, Push(epoch, keep, version)) for keep in missing]

    def archive(
        self, archive: Archive, version: int, *, whole: bool = True, doubted: bool = False
    ) -> list[Outgoing]:
        """Orders to put its seats' states on a shelf of the store; of replicas the first one's, and
        of the others only what they hold for other stages. ``whole``, ``doubted``: see ``Push``."""
        self._awaited.add(archive.area)
        firsts = first_seats(archive.seats)
        orders: list[Outgoing] = [(STORE, archive)]
        for seat in archive.seats:
            place = archive.area, archive.shelf
            beside = seat not in firsts
            push = Push(archive.epoch, Upload(seat), version, *place, beside, whole, doubted)
            orders.append((seat, push))
        return orders
