"""Where a process of a run is called, as libp2p writes it. All text that is to be an address is
read here, whole, wherever it comes from: a command line, a file, a peer.

    place   = address /p2p/ID        and who is wanted there
    address = host port
    host    = /ip4/192.0.2.1  or  /ip6/2001:db8::1  or a name: /dns/node.example, /dns4/…, /dns6/…
    port    = /tcp/4001  or  /udp/4001/quic-v1
    ID      = in base58, as in 12D3KooW… or Qm…; or in base32, as in bafz…

That is what libp2p's daemon calls as we start it: without relays. What is read is written back in
one way, so two texts that mean the same place become equal.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from checkfree.core.errors import BadInput

LONGEST = 400
"""Characters: the longest name of a machine has 253, an id 60."""
EXAMPLE = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWJX1bAb4pxPJSH52hwGRmmQ63B1adHe8h8NgSV55htMJH"

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SHA256, _IDENTITY, _MOST_IDENTITY = b"\x12\x20", 0, 42
_CID_OF_A_KEY = b"\x01\x72"
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NAMES = ("dns", "dns4", "dns6")
_KINDS = ", ".join(f"/{kind}" for kind in ("ip4", "ip6", *_NAMES))


@dataclass(frozen=True)
class NetworkAddress:
    """``kind`` is ip4, ip6, dns, dns4 or dns6; ``host`` a number, or a name in small letters."""

    kind: str
    host: str
    port: int
    quic: bool = False

    def __str__(self) -> str:
        port = f"udp/{self.port}/quic-v1" if self.quic else f"tcp/{self.port}"
        return f"/{self.kind}/{self.host}/{port}"

    @property
    def socket(self) -> tuple[str, int] | None:
        """Host and port, where TCP reaches a number; None for an address of another kind."""
        return None if self.quic or self.kind in _NAMES else (self.host, self.port)


@dataclass(frozen=True)
class Place:
    """A peer that can be called: its libp2p id, and addresses without it."""

    id: str
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.addresses[0]}/p2p/{self.id}"


class _Wrong(ValueError):
    """Which part is wrong, and why."""


# --- what is read --------------------------------------------------------------------------------


def parse_place(text: str) -> Place:
    """``/ip4/192.0.2.1/tcp/4001/p2p/Qm…``. Raises BadInput."""
    try:
        address, rest = _address(_parts(text))
        match rest:
            case ["p2p", id]:
                return Place(_id(id), (str(address),))
            case ["p2p", _, "p2p-circuit", *_]:
                raise _Wrong("it goes by a relay (p2p-circuit): give an address of the peer itself")
            case ["p2p", _, *more]:
                raise _Wrong(f"nothing may follow the id, as /{'/'.join(more)} does")
            case [other, *_]:
                raise _Wrong(f"after the port comes /p2p/ID, not /{other}")
        raise _Wrong("/p2p/ID is missing: who is wanted there")
    except _Wrong as error:
        raise BadInput(
            f"got address {_shown(text)}: {error}; expected one as in {EXAMPLE}: copy the whole "
            "line that checkfree swarm lead printed"
        ) from None


def parse_address(text: str) -> NetworkAddress:
    """``/ip4/192.0.2.1/tcp/4001``, of somebody who can be called. Raises BadInput."""
    try:
        address, rest = _address(_parts(text))
        if rest:
            raise _Wrong(f"nothing may follow the port, as /{'/'.join(rest)} does")
        return address
    except _Wrong as error:
        expected = EXAMPLE.partition("/p2p/")[0]
        raise BadInput(
            f"got address {_shown(text)}: {error}; expected one as in {expected}"
        ) from None


def parse_peer_id(text: str) -> str:
    """A libp2p id, in base58. Raises BadInput."""
    try:
        return _id(_words(text))
    except _Wrong as error:
        raise BadInput(f"got {_shown(text)}: {error}") from None


def parse_listen(text: str) -> tuple[str, int]:
    """``HOST:PORT``, of an interface of this machine; port 0: any. Raises BadInput."""
    try:
        host, colon, port = _words(text).rpartition(":")
        if not colon:
            raise _Wrong("there is no port")
        if host.startswith("[") and host.endswith("]") and ":" in host:
            host = host[1:-1]
        address = _number(host, "ip6" if ":" in host else "ip4")
        if address.is_multicast:
            raise _Wrong(f"{host} is a group, no address of a machine")
        return str(address), _port(port, least=0)
    except _Wrong as error:
        raise BadInput(
            f"got --listen {_shown(text)}: {error}; expected HOST:PORT with an address of this "
            "machine, as in 0.0.0.0:4001 (all of them) or [::]:4001; port 0 is any that is free"
        ) from None


def looks_like_an_address(text: str) -> bool:
    """Rather than a folder: it begins as an address does."""
    first = text.strip().split("/")[:2]
    return first[0] == "" and first[-1] in ("ip4", "ip6", *_NAMES, "dnsaddr", "p2p")


def listen_address(host: str, port: int) -> str:
    """Of ``parse_listen``, as libp2p writes it."""
    return str(NetworkAddress("ip6" if ":" in host else "ip4", host, port))


def render_listen(address: str) -> str:
    """As ``parse_listen`` reads it."""
    _, kind, host, _, port = address.split("/")
    return f"[{host}]:{port}" if kind == "ip6" else f"{host}:{port}"


def readable(texts: Iterable[str]) -> tuple[str, ...]:
    """Those that are addresses: whatever else libp2p may call one, others would not take it."""
    found = []
    for text in texts:
        with suppress(BadInput):
            found.append(str(parse_address(text)))
    return tuple(found)


# --- which of several ----------------------------------------------------------------------------


def best_first(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those first that another machine is most likely to reach."""

    def rank(text: str) -> tuple[bool, bool]:
        at = parse_address(text).socket
        found = None if at is None else ipaddress.ip_address(at[0])
        return found is not None and found.is_loopback, found is not None and found.is_link_local

    return tuple(sorted(addresses, key=rank))


def elsewhere(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those that mean the same machine wherever they are called from; all, if none does."""
    every = tuple(addresses)
    sockets = {text: parse_address(text).socket for text in every}
    found = [
        text
        for text, at in sockets.items()
        if at is None or not ipaddress.ip_address(at[0]).is_loopback
    ]
    return tuple(found or every)


# --- part by part --------------------------------------------------------------------------------


def _words(text: str) -> str:
    """Without space around it, and with none in it."""
    if len(text) > LONGEST:
        raise _Wrong(f"it has {len(text)} characters, expected {LONGEST} at most")
    words = text.strip()
    if any(not sign.isprintable() or sign.isspace() for sign in words):
        raise _Wrong("there is a space in it, or a sign that can't be printed")
    return words


def _parts(text: str) -> list[str]:
    first, *parts = _words(text).removesuffix("/").split("/")
    if first or not parts:
        raise _Wrong(f"it does not begin with {_KINDS}")
    return parts


def _address(parts: list[str]) -> tuple[NetworkAddress, list[str]]:
    """And what comes after it."""
    match parts:
        case ["ip4" | "ip6" as kind, text, *rest]:
            host = _callable(text, kind)
        case ["dns" | "dns4" | "dns6" as kind, text, *rest]:
            host = _name(text)
        case [kind, *_]:
            raise _Wrong(f"/{kind} is none of {_KINDS}")
    match rest:
        case ["tcp", port, *rest]:
            return NetworkAddress(kind, host, _port(port)), rest
        case ["udp", port, "quic-v1", *rest]:
            return NetworkAddress(kind, host, _port(port), quic=True), rest
        case ["udp", port, *_]:
            raise _Wrong(f"/udp/{port} is no way to call: expected /tcp/PORT, or /quic-v1 after it")
        case [way, *_]:
            raise _Wrong(f"/{way} is neither /tcp nor /udp")
    raise _Wrong("/tcp/PORT is missing")


def _number(text: str, kind: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        if "%" in text:
            raise ValueError
        return (ipaddress.IPv4Address if kind == "ip4" else ipaddress.IPv6Address)(text)
    except ValueError:
        what = "four numbers from 0 to 255" if kind == "ip4" else "as in 2001:db8::1, without a %"
        raise _Wrong(f"{text or 'nothing'} is no IPv{kind[-1]} address ({what})") from None


def _callable(text: str, kind: str) -> str:
    host = _number(text, kind)
    if host.is_unspecified:
        raise _Wrong(f"{text} is every address of a machine: give one of them")
    if host.is_multicast or text == "255.255.255.255":
        raise _Wrong(f"{text} is a group, no machine")
    if kind == "ip6" and host.is_link_local:
        raise _Wrong(f"{text} is good on one line alone, and libp2p does not call it")
    return str(host)


def _name(text: str) -> str:
    """Of a machine."""
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if not text.isascii():
        raise _Wrong(f"the name {text} has other letters than a to z: write it as xn--…")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise _Wrong(f"{text or 'nothing'} is no name of a machine")
    if labels[-1].isdecimal():
        raise _Wrong(f"{text} is a number, not a name: write /ip4/{text}")
    return name


def _port(text: str, least: int = 1) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else -1
    if not least <= number < 1 << 16:
        raise _Wrong(f"port {text or 'nothing'}: expected a number from {least} to 65535")
    return number


def _id(text: str) -> str:
    """The multihash of a key, or the key itself, in base58. A CID of a key is another spelling."""
    if text.startswith("b"):
        try:
            found = base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8))
        except (binascii.Error, ValueError):
            raise _Wrong(f"the id {text} is cut short, or has signs that base32 has not") from None
        if not found.startswith(_CID_OF_A_KEY):
            raise _Wrong(f"the id {text} is that of a file, not of a peer")
        found = found[len(_CID_OF_A_KEY) :]
    else:
        found = _from_base58(text)
    if not _is_hash(found):
        raise _Wrong(f"the id {text or 'nothing'} is cut short, or none of libp2p's")
    return _to_base58(found)


def _is_hash(found: bytes) -> bool:
    if found.startswith(_SHA256):
        return len(found) == len(_SHA256) + 32
    whole = len(found) > 2 and found[0] == _IDENTITY and found[1] == len(found) - 2
    return whole and found[1] <= _MOST_IDENTITY


def _from_base58(text: str) -> bytes:
    number = 0
    for sign in text:
        if sign not in _BASE58:
            why = "no 0, O, I or l" if sign in "0OIl" else "letters and digits only"
            raise _Wrong(f"{sign} is no sign of an id (base58 has {why})")
        number = number * 58 + _BASE58.index(sign)
    zeros = len(text) - len(text.lstrip(_BASE58[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _to_base58(data: bytes) -> str:
    number, signs = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        signs = _BASE58[digit] + signs
    return _BASE58[0] * (len(data) - len(data.lstrip(b"\0"))) + signs


def _shown(text: str) -> str:
    """As much of it as is no secret: a whole join line has the token after a space."""
    words = text.split()
    shown = repr(words[0] if words else "")
    shown = shown if len(shown) <= 120 else f"{shown[:119]}…"
    return f"{shown} …" if len(words) > 1 else shown
