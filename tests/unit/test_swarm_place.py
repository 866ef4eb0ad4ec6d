"""Where seats should be: pure, no process, no clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkfree.core.ops import Address
from checkfree.runtime.swarm.placement.nodes import Node
from checkfree.runtime.swarm.placement.place import Move, Site, judged, place, worth

SEATS = [Address(stage) for stage in range(5)]


def site(*names: str, room: int = 5, **more: object) -> Site:
    nodes = {name: Node(name, name, room=room) for name in names}
    return Site(nodes, dict.fromkeys(names, room), **more)  # type: ignore[arg-type]


def held(text: str) -> dict[Address, str | None]:
    """``a b - a``: who has stages 0, 1 …"""
    return {
        Address(stage): None if name == "-" else name for stage, name in enumerate(text.split())
    }


def settled(where: Site, seats: dict[Address, str | None]) -> dict[Address, str | None]:
    """After all moves that are worth it, each node ready to take as many as it has room for."""
    for _ in range(50):
        moves = place(where, seats)
        if not moves:
            return seats
        for move in moves:
            assert seats[move.seat] == move.origin
            seats = {**seats, move.seat: move.to}
    raise AssertionError("it never settles")


def test_one_node_takes_all_that_it_has_room_for() -> None:
    assert settled(site("a"), held("- - - - -")) == held("a a a a a")
    two = settled(site("a", room=2), held("- - - - -"))
    assert Counter(two.values()) == {"a": 2, None: 3}


@pytest.mark.parametrize("count", range(2, 8))
def test_seats_are_spread_evenly_and_neighbours_apart(count: int) -> None:
    where = site(*"abcdefg"[:count])
    seats = settled(where, held("- - - - -"))
    load = Counter(seats.values())
    assert None not in load
    assert max(load.values()) == -(-5 // min(count, 5))
    beside = sum(seats[Address(s)] == seats[Address((s + 1) % 5)] for s in range(5))
    assert beside == (1 if count == 2 else 0)  # five in a ring can't alternate


def far_apart(*groups: str) -> frozenset[frozenset[str]]:
    """Lines between nodes of two groups are slow."""
    pairs = combinations(groups, 2)
    return frozenset(frozenset((a, b)) for one, other in pairs for a in one for b in other)


def slow_hops(where: Site, seats: dict[Address, str | None]) -> int:
    ways = zip(seats.values(), [*list(seats.values())[1:], seats[Address(0)]], strict=True)
    return sum(frozenset(way) in where.slow for way in ways)


def test_neighbours_stand_where_lines_are_fast() -> None:
    """There and back again over the slow ones, and no more."""
    where = site(*"adbec", slow=far_apart("abc", "de"))
    seats = settled(where, held("- - - - -"))
    assert sorted(map(str, seats.values())) == [*"abcde"]
    assert slow_hops(where, seats) == 2 < slow_hops(where, held("a d b e c"))
    late = replace(where, nodes={**where.nodes, "f": Node("f", "f")}, standing={"f": 1})
    late = replace(late, slow=far_apart("abcf", "de"))
    (move,) = place(late, held("a d b c e"))
    assert move == Move(Address(1), "f", "d"), "one that comes by in the middle of fast ones"


def test_slow_lines_count_for_less_than_protection_and_load() -> None:
    near = site(*"abcd", room=2, slow=far_apart("ab", "cd"))
    hosts = {"a": "x", "b": "x", "c": "y", "d": "y"}
    where = replace(near, nodes={n: replace(near.nodes[n], host=hosts[n]) for n in "abcd"})
    seats = settled(where, held("- - - -"))
    assert not [
        s
        for s in range(4)
        if hosts[str(seats[Address(s)])] == hosts[str(seats[Address((s + 1) % 4)])]
    ]
    assert max(Counter(settled(near, held("- - - -")).values()).values()) == 1


def test_who_comes_later_gets_a_seat_of_the_fullest() -> None:
    where = site("a", "b")
    where = replace(where, standing={"b": 1})
    (move,) = place(where, held("a a a a a"))
    assert (move.origin, move.to) == ("a", "b")
    seats = held("a b c b a")
    assert place(replace(site(*"abcd"), standing={"d": 1}), seats) != ()
    assert place(replace(site(*"abcdef"), standing={"f": 1}), held("a b c d e")) == ()


def test_nothing_is_moved_while_a_stage_has_nobody() -> None:
    where = replace(site("a", "b"), standing={"b": 1})
    assert place(where, held("a a - a a")) == (Move(Address(2), "b"),)


def test_a_reserve_only_where_nobody_else_can() -> None:
    where = site("a", "r", room=2)
    where = replace(where, nodes={**where.nodes, "r": Node("r", "r", room=5, reserve=True)})
    seats = settled(where, held("- - - - -"))
    assert Counter(seats.values()) == {"a": 2, "r": 3}
    later = site("a", "b", "c", "r", room=2)
    later = replace(later, nodes={**later.nodes, "r": where.nodes["r"]})
    assert "r" not in settled(later, seats).values()


def test_a_slow_node_is_relieved_and_not_at_once_again() -> None:
    where = replace(site(*"abcdef", room=1), standing={"f": 1}, speed={"c": 0.3})
    assert place(where, held("a b c d e")) == (Move(Address(2), "f", "c"),)
    back = replace(site(*"abcdef", room=1), standing={"c": 1}, speed={"c": 0.3})
    assert place(back, held("a b f d e")) == ()
    nearly = replace(where, speed={"c": 0.9})
    assert place(nearly, held("a b c d e")) == ()


def test_who_can_t_reach_each_other_are_no_neighbours() -> None:
    pair = frozenset([frozenset("bc")])
    where = replace(site(*"abcdef", room=1), apart=pair, standing={"f": 1})
    assert place(where, held("a b c d e"))[0].origin in ("b", "c")
    filled = settled(site(*"abcde", room=1, apart=pair), held("- - - - -"))
    stages = {node: seat.stage for seat, node in filled.items()}
    assert (stages["b"] - stages["c"]) % 5 not in (1, 4)


def test_stage_0_needs_data() -> None:
    where = site("a", "b", room=5)
    where = replace(where, nodes={**where.nodes, "a": replace(where.nodes["a"], reads=False)})
    assert settled(where, held("- - - - -"))[Address(0)] == "b"
    alone = replace(where, nodes={"a": where.nodes["a"]})
    assert settled(alone, held("- - - - -"))[Address(0)] is None


@pytest.mark.parametrize("count", [3, 4, 6])
def test_a_stage_and_whoever_holds_its_copy_are_on_two_machines(count: int) -> None:
    """Six stages: 0 with 3, 1 with 4, 2 with 5."""
    six = dict.fromkeys([Address(s) for s in range(6)])
    where = site(*"abcdef"[:count])
    seats = settled(replace(where, copies=1), six)
    assert all(seats[Address(s)] != seats[Address(s + 3)] for s in range(3))
    assert max(Counter(seats.values()).values()) == -(-6 // count)


def test_such_a_pair_is_parted_by_a_move_and_only_where_stages_are_replayed() -> None:
    """Before neighbours are: each has its copy elsewhere."""
    seats = held("a b c a b c")
    where = replace(site(*"abc", room=3), standing=dict.fromkeys("abc", 1))
    assert place(where, seats) == ()
    (move,) = place(replace(where, copies=1), seats)
    after = judged(replace(where, copies=1), {**seats, move.seat: move.to})
    assert after < judged(replace(where, copies=1), seats)


def test_machines_and_zones_before_load() -> None:
    nodes = {
        "a1": Node("a1", "a", "east", 2),
        "a2": Node("a2", "a", "east", 2),
        "b": Node("b", "b", "west", 2),
    }
    where = Site(nodes, dict.fromkeys(nodes, 2))
    seats = settled(where, dict.fromkeys([Address(s) for s in range(4)]))
    machines = [nodes[node].host for _, node in sorted(seats.items()) if node]
    assert all(machines[i] != machines[(i + 1) % 4] for i in range(4))


def test_replicas_wait_for_a_node_of_their_own() -> None:
    both = [Address(stage, replica) for stage in range(2) for replica in range(2)]
    one = settled(site("a"), dict.fromkeys(both))
    assert one == {Address(0): "a", Address(1): "a", Address(0, 1): None, Address(1, 1): None}
    three = settled(site("a", "b", "c"), one)
    assert len([node for node in three.values() if node]) >= 3
    four = settled(site("a", "b", "c", "d"), three)
    assert None not in four.values()
    assert all(four[Address(s, 0)] != four[Address(s, 1)] for s in range(2))


NODES = st.lists(
    st.builds(
        Node,
        st.sampled_from("abcdef"),
        st.sampled_from("xyz"),
        st.sampled_from(["", "east", "west"]),
        st.integers(1, 4),
        st.booleans(),
        st.booleans(),
    ),
    max_size=6,
    unique_by=lambda node: node.id,
)


def test_who_alone_can_read_data_is_relieved_for_that() -> None:
    where = site("a", "b", room=1)
    where = replace(where, nodes={**where.nodes, "b": replace(where.nodes["b"], reads=False)})
    seats = {Address(0): None, Address(1): "a"}
    where = replace(where, standing={"b": 1})
    assert place(where, seats) == (Move(Address(1), "b", "a"),)


@given(NODES, st.data())
def test_it_settles_and_breaks_no_promise(nodes: list[Node], data: st.DataObject) -> None:
    """Nobody has more than it has room for, stage 0 where it can be read, each move is better."""
    known = {node.id: node for node in nodes}
    speed = {name: data.draw(st.sampled_from([0.2, 1.0, 3.0])) for name in known}
    where = Site(known, {name: node.room for name, node in known.items()}, speed)
    seats: dict[Address, str | None] = dict.fromkeys(SEATS)
    for _ in range(60):
        moves = place(where, seats)
        if not moves:
            break
        for move in moves:
            before = judged(where, seats)
            seats = {**seats, move.seat: move.to}
            assert move.origin is None or worth(before, judged(where, seats))
    else:
        raise AssertionError("it never settles")
    load = Counter(node for node in seats.values() if node is not None)
    assert all(count <= known[name].room for name, count in load.items())
    reader = seats[Address(0)]
    assert reader is None or known[reader].reads
    room = sum(node.room for node in nodes)
    readers = any(node.reads for node in nodes)
    assert sum(load.values()) == min(5 if readers else 4, room) or not readers


@pytest.mark.parametrize(
    "change",
    [{"room": 0}, {"room": "1"}, {"host": 3}, {"id": "x" * 65}, {"reserve": 1}, {"more": 1}],
)
def test_what_is_no_node(change: dict[str, object]) -> None:
    plain = Node("a", "b").to_json()
    assert Node.from_json(plain) == Node("a", "b")
    with pytest.raises(ValueError):
        Node.from_json({**plain, **change})
    with pytest.raises(ValueError):
        Node.from_json(None)


def test_a_reserve_relieves_a_slow_node_and_keeps_it_until_another_comes() -> None:
    where = site(*"abcder", room=1)
    nodes = {**where.nodes, "r": Node("r", "r", room=1, reserve=True)}
    where = replace(where, nodes=nodes, standing={"r": 1}, speed={"c": 0.3})
    assert place(where, held("a b c d e")) == (Move(Address(2), "r", "c"),)
    assert place(replace(where, speed={"c": 0.9}), held("a b c d e")) == ()
    moved = replace(where, standing={"c": 1})
    assert place(moved, held("a b r d e")) == ()
    another = replace(moved, nodes={**nodes, "f": Node("f", "f")}, standing={"c": 1, "f": 1})
    assert place(another, held("a b r d e")) == (Move(Address(2), "f", "r"),)


def test_a_slow_node_keeps_its_seat_where_nobody_would_be_faster_with_it() -> None:
    where = replace(site(*"abcd", room=2), standing=dict.fromkeys("abcd", 1), speed={"c": 0.5})
    assert place(where, held("a b c d")) == ()
    slower = replace(where, speed={"c": 0.2})
    (move,) = place(slower, held("a b c d"))
    assert (move.seat, move.origin) == (Address(2), "c")
