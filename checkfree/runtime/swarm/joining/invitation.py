"""How another machine finds a run: an address, and a token that shows that it may join.

The token is the run's secret. It is printed once, by the command that leads, and stands nowhere
but in a file that only the run's owner can read: in no record, no log and no command line of ours.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from checkfree.core.errors import BadInput, RunFailed
from checkfree.runtime.files import write_whole
from checkfree.runtime.swarm.transport.addresses import (
    Place,
    parse_address,
    parse_listen,
    parse_peer_id,
)

TOKEN_BYTES = 16
TOKEN_VARIABLE = "CHECKFREE_TOKEN"


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
            host, port = parse_listen(f"{plain['host']}:{plain['port']}")
            return cls(host, port, bytes.fromhex(plain["secret"]))
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
            return tuple(
                Place(parse_peer_id(id), tuple(str(parse_address(text)) for text in at))
                for id, at in json.loads(self._path.read_text())
            )
        except (OSError, ValueError, TypeError, AttributeError):
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
