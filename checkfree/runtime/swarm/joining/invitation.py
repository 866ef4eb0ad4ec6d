"""How another machine finds a run: an address, and a token that shows that it may join.

The token is the run's secret. It is printed once, by the command that leads, and stands nowhere
but in a file that only the run's owner can read: in no record, no log and no command line of ours.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from checkfree.core.errors import BadInput, RunFailed
from checkfree.runtime.files import write_whole

TOKEN_BYTES = 16
TOKEN_VARIABLE = "CHECKFREE_TOKEN"
EVERYWHERE = "0.0.0.0"
_ADDRESS = re.compile(r"(/(?:ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/\d{1,5})/p2p/([1-9A-Za-z]+)")


@dataclass(frozen=True)
class Place:
    """A peer that can be called: its libp2p id, and addresses without it."""

    id: str
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.addresses[0]}/p2p/{self.id}"


def parse_place(text: str) -> Place:
    """``/ip4/192.0.2.1/tcp/4001/p2p/Qm…``. Raises BadInput."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or not _good_port(match[1]) or not 20 <= len(match[2]) <= 100:
        raise BadInput(
            f"got address {text!r:.120}, expected /ip4/HOST/tcp/PORT/p2p/ID: copy the whole line "
            "that checkfree swarm lead printed"
        )
    return Place(match[2], (match[1],))


def _good_port(address: str) -> bool:
    return 0 < int(address.rpartition("/")[2]) < 1 << 16


def parse_listen(text: str) -> tuple[str, int]:
    """``HOST:PORT``, of an interface of this machine; port 0: any. Raises BadInput."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
        if not 0 <= number < 1 << 16:
            raise ValueError
    except ValueError:
        raise BadInput(
            f"got --listen {text!r:.60}, expected HOST:PORT with an address of this machine, as in "
            "0.0.0.0:4001 (all of them); port 0 is any that is free"
        ) from None
    return host, number


def listen_address(host: str, port: int) -> str:
    """As libp2p writes it."""
    kind = "ip6" if ":" in host else "ip4"
    return f"/{kind}/{host}/tcp/{port}"


def socket_of(address: str) -> tuple[str, int] | None:
    """Host and port of ``/ip4/HOST/tcp/PORT``; None for an address of another kind."""
    match = re.fullmatch(r"/ip[46]/([^/\s]+)/tcp/(\d{1,5})", address)
    return None if match is None else (match[1], int(match[2]))


def best_first(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those first that another machine is most likely to reach."""

    def rank(address: str) -> tuple[bool, bool]:
        host = address.split("/")[2]
        try:
            found = ipaddress.ip_address(host)
        except ValueError:
            return False, False
        return found.is_loopback, found.is_link_local

    return tuple(sorted(addresses, key=rank))


def parse_token(text: str) -> bytes:
    """The secret that a token spells. Raises BadInput, and never repeats the token."""
    words = text.strip()
    if not re.fullmatch(f"[0-9a-f]{{{2 * TOKEN_BYTES}}}", words):
        raise BadInput(
            f"got a token of {len(words)} characters, expected {2 * TOKEN_BYTES} of 0-9 and a-f: "
            "copy it as checkfree swarm lead printed it"
        )
    return bytes.fromhex(words)


def given_token(word: str | None, file: Path | None) -> bytes:
    """From the command line, a file, or the environment. Raises BadInput."""
    if word is not None and file is not None:
        raise BadInput("got --token and --token-file: give one of them")
    if file is not None:
        try:
            return parse_token(file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"--token-file {file} can't be read: {error}") from None
    text = word if word is not None else os.environ.get(TOKEN_VARIABLE)
    if text is None:
        raise BadInput(
            f"no token: give --token, --token-file or {TOKEN_VARIABLE}, with what checkfree swarm "
            "lead printed"
        )
    return parse_token(text)


@dataclass(frozen=True)
class Invitation:
    """What has to stay the same when a lead is started again, so that its join line stays good:
    where it listens, and the secret. Its identity is a file beside it."""

    host: str
    port: int
    secret: bytes

    def save(self, path: Path) -> None:
        """Only its owner may read it. Raises OSError."""
        plain = {"host": self.host, "port": self.port, "secret": self.secret.hex()}
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with open(handle, "w", encoding="ascii") as file:
            json.dump(plain, file)

    @classmethod
    def load(cls, path: Path) -> Invitation | None:
        """None if there is none, or it is damaged."""
        try:
            plain = json.loads(path.read_text())
            return cls(str(plain["host"]), int(plain["port"]), bytes.fromhex(plain["secret"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Register:
    """A file of where members were, for a lead that is started again: the last few of them."""

    LONGEST = 64

    def __init__(self, path: Path):
        self._path = path

    def read(self) -> tuple[Place, ...]:
        """None if there is no file, or a damaged one."""
        try:
            return tuple(Place(id, tuple(at)) for id, at in json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):
            return ()

    def add(self, place: Place) -> None:
        """A register that can't be written is no reason to stop."""
        known = [other for other in self.read() if other.id != place.id]
        plain = [[other.id, list(other.addresses)] for other in (*known, place)[-self.LONGEST :]]
        with suppress(RunFailed):  # whole or not at all: a lead may be killed meanwhile
            write_whole(self._path, json.dumps(plain).encode())


def join_line(place: Place, secret: bytes) -> str:
    """What to run elsewhere."""
    return f"checkfree swarm join {place} --token {secret.hex()}"
