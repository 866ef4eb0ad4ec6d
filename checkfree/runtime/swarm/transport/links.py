"""Slower lines than one machine has, for experiments: when bytes that are sent may arrive.

A line sends one thing after another at its bandwidth; what has left arrives a latency later. So
messages that follow each other pay the latency once, as on a real line. Each direction between two
seats is a line of its own. Nothing is lost, changed or overtaken: only time passes.

    latency=40ms,bandwidth=100Mb                  all lines

    # a file, one line each: FROM TO LINK; both directions, the last that fits decides
    *    *    latency=40ms,bandwidth=100Mb
    1    2    latency=1ms                          all replicas of stages 1 and 2
    lead 2.0  latency=80ms,bandwidth=1MB
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from checkfree.core.errors import BadInput
from checkfree.core.ops import Address

FILE = "links"
"""In the folder of a run's processes."""

ANY = "*"

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"kb": 1e3 / 8, "Mb": 1e6 / 8, "Gb": 1e9 / 8, "kB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass(frozen=True)
class EmulatedLink:
    """What a line can do."""

    latency: float = 0.0
    """Seconds."""
    bandwidth: float = math.inf
    """Bytes per second."""

    @classmethod
    def parse(cls, text: str) -> EmulatedLink:
        """``latency=40ms,bandwidth=100Mb`` (b: bits, B: bytes, per second); either may be left
        out. Raises BadInput."""
        found: dict[str, float] = {}
        for word in text.split(","):
            key, _, value = word.partition("=")
            if key not in ("latency", "bandwidth") or key in found:
                raise _bad(text)
            found[key] = _number(value, _SECONDS if key == "latency" else _BYTES, text)
        if found.get("bandwidth") == 0:
            raise _bad(text)
        return cls(**found)


def _number(value: str, units: dict[str, float], text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]+)", value)
    if match is None or match[2] not in units:
        raise _bad(text)
    return float(match[1]) * units[match[2]]


def _bad(text: str) -> BadInput:
    return BadInput(
        f"link {text!r}: expected latency (us, ms, s), bandwidth (kb, Mb, Gb of bits or kB, MB, GB "
        "of bytes, per second) or both, as in latency=40ms,bandwidth=100Mb"
    )


@dataclass(frozen=True)
class Passage:
    """One thing on its way."""

    begins: float
    """When its first byte leaves."""
    link: EmulatedLink

    def due(self, count: int) -> float:
        """When the first ``count`` bytes of it have arrived."""
        return self.begins + count / self.link.bandwidth + self.link.latency


class EmulatedLine:
    """One direction of a link: it remembers until when it is taken. Knows no clock."""

    def __init__(self, link: EmulatedLink):
        self._link, self.free = link, -math.inf
        """``free``: when all that was entered will have left."""

    def enter(self, now: float, count: int) -> Passage:
        """``count`` bytes that are ready ``now`` leave when all before them have left."""
        begins = max(now, self.free)
        self.free = begins + count / self._link.bandwidth
        return Passage(begins, self._link)


@dataclass(frozen=True)
class Links:
    """The lines between all seats: (one, other, link), each seat as it is written."""

    rules: tuple[tuple[str, str, EmulatedLink], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Links:
        """A link for all, or the lines of a file. Raises BadInput."""
        lines = [line.partition("#")[0].split() for line in text.splitlines()]
        rules = []
        for words in filter(None, lines):
            if len(words) == 1:
                words = [ANY, ANY, *words]
            if len(words) != 3:
                raise BadInput(
                    f"link {' '.join(words)!r}: expected FROM TO LINK, as in 1.0 2.0 latency=40ms"
                )
            one, other, link = words
            rules.append((_seat(one), _seat(other), EmulatedLink.parse(link)))
        return cls(tuple(rules))

    @classmethod
    def of(cls, folder: Path) -> Links:
        """Those written into a folder; none if there is no file. Raises BadInput."""
        try:
            return cls.parse((folder / FILE).read_text(encoding="ascii"))
        except FileNotFoundError:
            return cls()

    def line(self, one: Address, other: Address) -> EmulatedLine | None:
        """A fresh line from one seat to another; None: as fast as it goes."""
        found = None
        for first, second, link in self.rules:
            ahead = _fits(first, one) and _fits(second, other)
            if ahead or (_fits(first, other) and _fits(second, one)):
                found = link
        return None if found is None else EmulatedLine(found)


def asked(option: str) -> str:
    """What an option says, or the file that it names; such as ``Links.parse`` takes. Raises
    BadInput."""
    text = option
    if option and "=" not in option:
        try:
            text = Path(option).read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise BadInput(
                f"--link {option}: no file of links ({getattr(error, 'strerror', error)}); give "
                "one, or a link as in latency=40ms,bandwidth=100Mb"
            ) from None
    Links.parse(text)
    return text


def _seat(text: str) -> str:
    try:
        known = text == ANY or text.isdecimal() or bool(Address.parse(text))
    except ValueError:
        known = False
    if not known:
        raise BadInput(f"link of {text!r}: expected a seat such as 2.0, a stage, lead or {ANY}")
    return text


def _fits(written: str, seat: Address) -> bool:
    return written in (ANY, str(seat), str(seat.stage))
