"""Text that is to be an address: read whole, or refused with the part that is wrong."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from checkfree.cli import main
from checkfree.core.errors import BadInput
from checkfree.runtime.swarm.joining.dialback import asked_dial, read_addresses
from checkfree.runtime.swarm.transport.addresses import (
    EXAMPLE,
    NetworkAddress,
    Place,
    _to_base58,
    best_first,
    elsewhere,
    listen_address,
    looks_like_an_address,
    parse_address,
    parse_listen,
    parse_peer_id,
    parse_place,
    readable,
)
from checkfree.runtime.swarm.transport.frames import BadFrame, Peer

RSA = "QmXLUnTTk7GiZbu7rhvaDQ7R9ceX4sxKWF6z7mh37QWQH9"
ED25519 = "12D3KooWJX1bAb4pxPJSH52hwGRmmQ63B1adHe8h8NgSV55htMJH"

SHA256 = st.binary(min_size=32, max_size=32).map(lambda digest: b"\x12\x20" + digest)
IDENTITY = st.binary(min_size=1, max_size=42).map(lambda key: bytes([0, len(key)]) + key)
HASHES = st.one_of(SHA256, IDENTITY)
IDS = HASHES.map(_to_base58)
LABELS = st.from_regex(r"[a-z][a-z0-9]{0,20}(-[a-z0-9]{1,20})?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PORTS = st.integers(1, 65535)


def is_callable(host: str) -> bool:
    try:
        parse_address(f"/ip{6 if ':' in host else 4}/{host}/tcp/1")
    except BadInput:
        return False
    return True


ADDRESSES = st.one_of(
    st.builds(
        NetworkAddress,
        st.just("ip4"),
        st.ip_addresses(v=4).map(str).filter(is_callable),
        PORTS,
        st.booleans(),
    ),
    st.builds(
        NetworkAddress,
        st.just("ip6"),
        st.ip_addresses(v=6).map(str).filter(is_callable),
        PORTS,
        st.booleans(),
    ),
    st.builds(
        NetworkAddress, st.sampled_from(["dns", "dns4", "dns6"]), NAMES, PORTS, st.booleans()
    ),
)
PIECES = st.sampled_from(
    [
        *("/ip4/", "/ip6/", "/dns4/", "/tcp/", "/udp/", "/quic-v1", "/p2p/", "/p2p-circuit", "/"),
        *("192.0.2.1", "300.1.1.1", "::1", "fe80::1%eth0", "node.example", "4001", "0", "65536"),
        *(RSA, ED25519, ED25519[:-1], "bafz", "\u0664", " ", "\n", "\0", "O", ":", "[", "]", "%"),
    ]
)
TEXTS = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=9).map("".join))


# --- read and written ----------------------------------------------------------------------------


@given(ADDRESSES, IDS)
def test_what_is_written_is_read(address: NetworkAddress, id: str) -> None:
    assert parse_address(str(address)) == address
    place = Place(id, (str(address),))
    assert parse_place(str(place)) == parse_place(f" {place}/\n") == place
    peer = Peer.from_json(["1.0", 0, id, [str(address)]])
    assert Peer.from_json(peer.to_json()) == peer


@given(HASHES)
def test_two_spellings_of_an_id_are_one(key: bytes) -> None:
    cid = base64.b32encode(b"\x01\x72" + key).decode().lower().rstrip("=")
    assert parse_peer_id(f"b{cid}") == parse_peer_id(_to_base58(key)) == _to_base58(key)


@given(ADDRESSES, IDS)
def test_libp2p_reads_what_we_do(address: NetworkAddress, id: str) -> None:
    multiaddr = pytest.importorskip("hivemind.utils.multiaddr", reason="hivemind is not installed")
    assert multiaddr.Multiaddr(f"{address}/p2p/{id}")["p2p"] == id


def test_the_spelling_in_base32_that_libp2p_documents() -> None:
    documented = "bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe"
    assert parse_peer_id(documented) == "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("/ip6/2001:DB8:0::1/tcp/04001", "/ip6/2001:db8::1/tcp/4001"),
        ("/dns4/Node.Example./tcp/1/", "/dns4/node.example/tcp/1"),
        ("/dns/my_host/udp/9/quic-v1", "/dns/my_host/udp/9/quic-v1"),
        ("/ip4/127.0.0.1/tcp/65535", "/ip4/127.0.0.1/tcp/65535"),
    ],
)
def test_one_way_to_write_it(text: str, written: str) -> None:
    assert str(parse_address(text)) == written


def test_the_example_is_one() -> None:
    assert str(parse_place(EXAMPLE)) == EXAMPLE
    assert parse_place(EXAMPLE) == Place(ED25519, ("/ip4/192.0.2.1/tcp/4001",))


# --- what is wrong, by its part ------------------------------------------------------------------

AT = "/ip4/192.0.2.1/tcp/4001"
WRONG = {
    "": "does not begin with /ip4",
    "localhost:1": "does not begin with /ip4",
    "/": "does not begin with /ip4",
    f"/ip5/192.0.2.1/tcp/1/p2p/{RSA}": "/ip5 is none of /ip4",
    f"/dnsaddr/node.example/p2p/{RSA}": "/dnsaddr is none of",
    f"/ip4/300.1.1.1/tcp/4001/p2p/{RSA}": "300.1.1.1 is no IPv4 address",
    f"/ip4/192.0.2/tcp/4001/p2p/{RSA}": "192.0.2 is no IPv4 address",
    f"/ip4/192.0.2.01/tcp/4001/p2p/{RSA}": "192.0.2.01 is no IPv4 address",
    f"/ip4/node.example/tcp/4001/p2p/{RSA}": "node.example is no IPv4 address",
    f"/ip4/::1/tcp/4001/p2p/{RSA}": "::1 is no IPv4 address",
    f"/ip4//tcp/4001/p2p/{RSA}": "nothing is no IPv4 address",
    f"/ip4/0.0.0.0/tcp/4001/p2p/{RSA}": "every address of a machine",
    f"/ip4/224.0.0.1/tcp/4001/p2p/{RSA}": "a group",
    f"/ip4/255.255.255.255/tcp/4001/p2p/{RSA}": "a group",
    f"/ip6/192.0.2.1/tcp/4001/p2p/{RSA}": "192.0.2.1 is no IPv6 address",
    f"/ip6/2001:db8::1::2/tcp/4001/p2p/{RSA}": "is no IPv6 address",
    f"/ip6/fe80::1%eth0/tcp/4001/p2p/{RSA}": "without a %",
    f"/ip6/fe80::1/tcp/4001/p2p/{RSA}": "on one line alone",
    f"/ip6/::/tcp/4001/p2p/{RSA}": "every address of a machine",
    f"/dns4/node..example/tcp/4001/p2p/{RSA}": "node..example is no name",
    f"/dns4/-node/tcp/4001/p2p/{RSA}": "-node is no name",
    f"/dns4/{'a' * 64}/tcp/4001/p2p/{RSA}": "is no name",
    f"/dns4/{'a.' * 128}/tcp/4001/p2p/{RSA}": "is no name",
    f"/dns4/bücher.example/tcp/4001/p2p/{RSA}": "write it as xn--",
    f"/dns4/300.1.1.1/tcp/4001/p2p/{RSA}": "a number, not a name",
    f"/ip4/192.0.2.1/tcp/0/p2p/{RSA}": "port 0: expected a number from 1 to 65535",
    f"/ip4/192.0.2.1/tcp/65536/p2p/{RSA}": "port 65536",
    f"/ip4/192.0.2.1/tcp/-1/p2p/{RSA}": "port -1",
    f"/ip4/192.0.2.1/tcp/1_0/p2p/{RSA}": "port 1_0",
    f"/ip4/192.0.2.1/tcp/\u0664/p2p/{RSA}": "port \u0664",
    f"/ip4/192.0.2.1/tcp//p2p/{RSA}": "port nothing",
    f"/ip4/192.0.2.1/tcp/{'9' * 200}/p2p/{RSA}": "port 999",
    f"/ip4/192.0.2.1/udp/4001/p2p/{RSA}": "/quic-v1 after it",
    f"/ip4/192.0.2.1/udp/4001/quic/p2p/{RSA}": "/quic-v1 after it",
    f"/ip4/192.0.2.1/sctp/4001/p2p/{RSA}": "/sctp is neither /tcp nor /udp",
    "/ip4/192.0.2.1": "/tcp/PORT is missing",
    AT: "/p2p/ID is missing",
    f"{AT}/ws/p2p/{RSA}": "after the port comes /p2p/ID, not /ws",
    f"{AT}/ipfs/{RSA}": "after the port comes /p2p/ID, not /ipfs",
    f"{AT}/p2p": "after the port comes /p2p/ID, not /p2p",
    f"{AT}/p2p/": "after the port comes /p2p/ID, not /p2p",
    f"{AT}/p2p/Qm": "Qm is cut short",
    f"{AT}/p2p/{RSA[:-1]}": "is cut short",
    f"{AT}/p2p/{ED25519[:-1]}": "is cut short",
    f"{AT}/p2p/{RSA}Q": "is cut short, or none of libp2p's",
    f"{AT}/p2p/{RSA[:-1]}O": "O is no sign of an id (base58 has no 0, O, I or l)",
    f"{AT}/p2p/{RSA[:9]}0{RSA[10:]}": "0 is no sign of an id",
    f"{AT}/p2p/{RSA[:9]}+{RSA[10:]}": "+ is no sign of an id (base58 has letters and digits only)",
    f"{AT}/p2p/bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi": "of a file",
    f"{AT}/p2p/bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5x1xe": "base32 has not",
    f"{AT}/p2p/bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx": "is cut short",
    f"{AT}/p2p/{RSA}/p2p-circuit/p2p/{ED25519}": "by a relay",
    f"{AT}/p2p/{RSA}/tcp/1": "nothing may follow the id, as /tcp/1 does",
    f"{AT}/p2p/{RSA} x": "there is a space in it",
    f"{AT}/p2p/{RSA}\n--token": "there is a space in it",
    f"{AT}\0/p2p/{RSA}": "a sign that can't be printed",
    f"/ip4/{'1' * 5000}/tcp/1/p2p/{RSA}": "characters, expected 400 at most",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named_and_a_right_one_shown(text: str) -> None:
    with pytest.raises(BadInput) as error:
        parse_place(text)
    told = str(error.value)
    assert WRONG[text] in told and EXAMPLE in told and "copy the whole line" in told
    assert len(told) < 700 and told.isprintable()


def test_a_whole_join_line_is_not_told_with_its_token() -> None:
    token = "0123456789abcdef" * 2
    for text in (f"{AT}/p2p/{RSA} --token {token}", f"checkfree swarm join {AT} --token {token}"):
        with pytest.raises(BadInput) as error:
            parse_place(text)
        assert token[:4] not in str(error.value)


@given(TEXTS)
@example(f"{AT}/p2p/{RSA}")
def test_any_text_is_an_address_or_one_line(text: str) -> None:
    for parse in (parse_place, parse_address, parse_peer_id, parse_listen):
        try:
            found = parse(text)  # type: ignore[operator]
        except BadInput as error:
            assert str(error).isprintable()
        else:
            assert parse is parse_listen or parse(str(found)) == found  # type: ignore[operator]


# --- where one listens ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        *(("0.0.0.0:0", "0.0.0.0", 0), ("[::]:4001", "::", 4001), (":::4001", "::", 4001)),
        *((" 192.0.2.1:5 ", "192.0.2.1", 5), ("[2001:DB8::1]:65535", "2001:db8::1", 65535)),
    ],
)
def test_listening(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == (host, port)


def test_listening_as_libp2p_writes_it() -> None:
    assert listen_address(*parse_listen("192.0.2.1:5")) == "/ip4/192.0.2.1/tcp/5"
    assert listen_address(*parse_listen("[::]:0")) == "/ip6/::/tcp/0"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *(("", "there is no port"), ("1.2.3.4", "there is no port"), ("1.2.3.4:x", "port x")),
        *(("1.2.3.4:70000", "port 70000"), ("1.2.3.4:-1", "port -1"), ("1.2.3.4:", "port n")),
        *(("name:1", "name is no IPv4 address"), (":4001", "nothing is no IPv4 address")),
        *(("[::1:5", "no IPv6 address"), ("fe80::1%eth0:5", "without a %")),
        *(("[1.2.3.4]:5", "is no IPv4 address"), ("[]:5", "is no IPv4 address")),
        *(("/ip4/1.2.3.4/tcp/5", "there is no port"), ("224.0.0.1:5", "a group")),
        *(("1.2.3.4:+5", r"port \+5"), ("1.2.3.4:1 0", "a space in it")),
    ],
)
def test_listening_nowhere(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=why) as error:
        parse_listen(text)
    assert "--listen" in str(error.value) and "0.0.0.0:4001" in str(error.value)


# --- which of several ----------------------------------------------------------------------------


def test_another_machine_is_most_likely_to_reach_the_first() -> None:
    local, line, there = (f"/ip4/{h}/tcp/1" for h in ("127.0.0.1", "169.254.1.1", "10.0.0.1"))
    name, quic = "/dns4/node.example/tcp/1", "/ip6/::1/udp/1/quic-v1"
    assert best_first((local, line, there, name)) == (there, name, line, local)
    assert elsewhere((local, there)) == (there,)
    assert elsewhere((local,)) == (local,)
    assert parse_address(name).socket is None and parse_address(quic).socket is None
    assert parse_address("/ip6/::1/tcp/1").socket == ("::1", 1)


def test_what_others_could_not_read_is_not_told_to_them() -> None:
    assert readable((AT, f"{AT}/ws", "/ip6zone/eth0/ip6/fe80::1/tcp/1", "/memory/1")) == (AT,)


# --- from peers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/ip4/300.1.1.1/tcp/1", "x", "", 7, None, f"{AT}/p2p/{RSA}"])
def test_a_peer_with_a_bad_address_is_none(address: object) -> None:
    with pytest.raises(BadFrame):
        Peer.from_json(["1.0", 0, RSA, [address]])
    with pytest.raises(ValueError):
        read_addresses([address])
    with pytest.raises(ValueError):
        asked_dial([[RSA, [address]]])


@pytest.mark.parametrize("id", ["", "Qm", RSA[:-1] + "O", 7, None])
def test_a_peer_with_a_bad_id_is_none(id: object) -> None:
    with pytest.raises(BadFrame):
        Peer.from_json(["1.0", 0, id, [AT]])
    with pytest.raises(ValueError):
        asked_dial([[id, [AT]]])


# --- on a command line ---------------------------------------------------------------------------

TOKEN = ["--token", "0" * 32]


def test_commands_refuse_alike(capsys: pytest.CaptureFixture[str]) -> None:
    bad = f"/ip4/300.1.1.1/tcp/4001/p2p/{RSA}"
    for words in (["swarm", "join", bad, *TOKEN], ["swarm", "status", bad, *TOKEN]):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert "300.1.1.1 is no IPv4 address" in told and told.count("\n") == 1


@pytest.mark.parametrize("text", [AT, "/ip4", "/dns4/node.example/tcp/1", "/dnsaddr/x", "/p2p/x"])
def test_what_begins_as_an_address_is_taken_for_one(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert looks_like_an_address(text)
    assert main(["swarm", "status", text, *TOKEN]) == 2
    assert "expected one as in" in capsys.readouterr().err


def test_a_folder_is_asked_for_where_an_address_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = f"{AT}/p2p/{RSA}"
    for words in (["stop", place], ["drain", place, "host"], ["move", place, "1.0"]):
        assert main(["swarm", *words]) == 2
        told = capsys.readouterr().err
        assert "expected the folder of a run" in told and told.count("\n") == 1
    assert not looks_like_an_address("/tmp/ip4") and not looks_like_an_address("ip4/x")


def test_ports_that_run_out() -> None:
    pytest.importorskip("hivemind", reason="hivemind is not installed")
    from checkfree.session.swarm.member import _listen

    assert _listen("/ip4/0.0.0.0/tcp/0", 9) == "/ip4/0.0.0.0/tcp/0"
    assert _listen("/ip4/0.0.0.0/tcp/65530", 5) == "/ip4/0.0.0.0/tcp/65535"
    with pytest.raises(BadInput, match="fewer than 7 seats"):
        _listen("/ip4/0.0.0.0/tcp/65530", 6)
