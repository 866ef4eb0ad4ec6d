"""Lines of a swarm: measured by its members, gathered by its lead, read for the simulator."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkfree.cli import main
from checkfree.config.load import load
from checkfree.core.errors import BadInput
from checkfree.core.ops import Address
from checkfree.runtime.swarm.presence import survey
from checkfree.runtime.swarm.presence.survey import ANSWER_WITHIN, LinkSurvey, aged
from checkfree.runtime.swarm.transport import probes
from checkfree.runtime.swarm.transport.frames import Notice
from checkfree.runtime.swarm.transport.links import EmulatedLine, EmulatedLink
from checkfree.runtime.swarm.transport.probes import MOST, Prober
from checkfree.session.routing import network_of
from checkfree.session.swarm.launched import slow_pairs
from checkfree.session.terms import scheduler_of, seats
from checkfree.session.wired import check_given, with_links
from checkfree.simulator.fleet import FLEETS, Link
from checkfree.simulator.surveyed import WITHIN, SurveyedFleet, read_surveyed

HERE, THERE = Address(0), Address(1)
GOOD: dict[str, Any] = {
    "format": 1,
    "checkfree": "0.1.0",
    "machines": [
        {"name": "a", "seats": ["0.0", "2.0"]},
        {"name": "b", "seats": ["1.0"]},
        {"name": "c", "seats": []},
    ],
    "links": [
        {"from": "a", "to": "b", "latency": 0.04, "bandwidth": 1e6},
        {"from": "b", "to": "a", "latency": 0.05, "bandwidth": 2e6},
        {"from": "b", "to": "c", "latency": 0.01, "bandwidth": 5e5},
    ],
}


# --- a member measures ---------------------------------------------------------------------------


class Clock:
    """Time that passes on an emulated line, and nowhere else."""

    def __init__(self, link: EmulatedLink):
        self.now, self._line, self._back = 0.0, EmulatedLine(link), link.latency
        self.sent = 0

    def monotonic(self) -> float:
        return self.now

    def passes(self, prober: Prober, notice: Notice) -> None:
        """A probe goes there, and its answer comes back."""
        size = len(notice["pad"])
        self.sent += size
        due = self._line.enter(self.now, size).due(size) + self._back

        def arrive() -> None:
            self.now = max(self.now, due)
            prober.answered(THERE, notice["probe"])

        asyncio.get_running_loop().call_soon(arrive)


@given(st.floats(0.0, 0.3), st.floats(2e3, 1e9))
def test_a_line_is_measured_in_few_bytes(latency: float, bandwidth: float) -> None:
    clock = Clock(EmulatedLink(latency, bandwidth))
    prober = Prober(lambda seat, notice: clock.passes(prober, notice))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "time", clock)
        found = asyncio.run(prober.measure([THERE]))
    seconds, rate = found[str(THERE)]
    assert seconds == pytest.approx(latency, abs=1e-6)
    assert rate == pytest.approx(bandwidth, rel=0.01) or bandwidth > 1e8 < rate
    assert clock.sent < 2 * MOST


def test_whoever_does_not_answer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "ANSWER_WITHIN", 0.01)
    assert asyncio.run(Prober(lambda seat, notice: None).measure([HERE, THERE])) == {}


# --- the lead asks one after the other ----------------------------------------------------------


def test_one_seat_of_each_machine_measures_after_the_other() -> None:
    asked, told = LinkSurvey(), {"1.0": [0.04, 1e6], "9.0": [1.0, 1.0]}
    asked.begin({Address(0): "a", Address(2): "a", Address(1): "b"})
    assert asked.next(0.0) == (Address(0), ["1.0"])
    assert asked.next(1.0) is None
    asked.heard(Address(1), {"0.0": [0.04, 1e6]})  # nobody asked it
    asked.heard(Address(0), told)
    assert asked.next(1.0) == (Address(1), ["0.0"])
    assert aged(asked.to_json())["age"] is None
    assert asked.next(1.0 + ANSWER_WITHIN) is None, "it never answers, and was the last"
    found = asked.to_json()
    assert found["machines"] == [["a", "0.0", "2.0"], ["b", "1.0"]]
    assert found["lines"] == [[0, 1, 0.04, 1e6]]
    assert 0 <= aged(found)["age"] < 60


def test_what_was_measured_just_now_of_the_same_machines_is_not_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, now = LinkSurvey(), [1000.0]
    monkeypatch.setattr(survey.time, "time", lambda: now[0])

    def measured(*names: str) -> bool:
        asked.begin({Address(place): name for place, name in enumerate(names)})
        ran = False
        while (ask := asked.next(0.0)) is not None:
            asked.heard(ask[0], {})
            ran = True
        return ran

    assert measured("a", "b") and not measured("a", "b") and measured("a", "b", "c")
    now[0] += survey.FRESH
    assert measured("a", "b", "c")


@settings(max_examples=30)
@given(st.recursive(st.none() | st.floats() | st.text() | st.integers(), st.lists) | st.just([1.0]))
def test_rubbish_is_no_line(told: Any) -> None:
    asked = LinkSurvey()
    asked.begin({HERE: "a", THERE: "b"})
    asked.next(0.0)
    asked.heard(HERE, {"1.0": told})
    asked.heard(HERE, told)
    for line in asked.lines.values():
        assert all(0 <= value < 1e15 for value in line)


# --- the simulator reads -------------------------------------------------------------------------


def test_it_is_read_as_it_is_written() -> None:
    found = SurveyedFleet.from_json(GOOD)
    assert found.to_json("0.1.0") == GOOD
    assert found.link("a", "b") == Link(0.04, 1e6)
    assert found.link("c", "b") == Link(0.01, 5e5), "as the way back"
    assert found.link("a", "c") == Link(0.05, 5e5), "as slow as the slowest"
    fleet = found.over(FLEETS["home"])
    assert fleet.link(Address(0), Address(2)) == WITHIN
    assert fleet.link(Address(2), Address(1)) == Link(0.04, 1e6)
    assert (fleet.places, fleet.store) == (3, FLEETS["home"].store)
    assert fleet.place(Address(5)) == 2, "nobody has it: one machine after the other"


def test_pairs_are_slow_beside_what_most_take(tmp_path: Path) -> None:
    config = config_on(GOOD, tmp_path)
    near = {"from": "a", "to": "c", "latency": 0.01, "bandwidth": 1e6}
    far = broken(lambda t: (t["links"][0].update(latency=0.4), t["links"].append(near)))
    assert slow_pairs(config, resume=False) == frozenset()
    config = config_on(far, tmp_path)
    assert slow_pairs(config, resume=False) == {frozenset("ab")}
    (tmp_path / "links.json").unlink()
    assert slow_pairs(config, resume=True) == frozenset()
    with pytest.raises(BadInput, match="cannot be read"):
        slow_pairs(config, resume=False)


def broken(change: Callable[[Any], object]) -> Any:
    tree = copy.deepcopy(GOOD)
    change(tree)
    return tree


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ([], "no object of format 1"),
        (broken(lambda t: t.update(format=2)), "no object of format 1"),
        (broken(lambda t: t.pop("machines")), "no list of machines"),
        (broken(lambda t: t["machines"].clear()), "expected 1 to 256 machines"),
        (broken(lambda t: t["machines"][1].update(name="a")), "each of another name"),
        (broken(lambda t: t["machines"][1].update(seats=["2.0"])), "stands on two machines"),
        (broken(lambda t: t["machines"][1].update(seats=["x"])), "x"),
        (broken(lambda t: t["machines"][1].pop("name")), "without a name"),
        (broken(lambda t: t["links"].clear()), "no link between them"),
        (broken(lambda t: t["links"][0].update(to="d")), "no two machines"),
        (broken(lambda t: t["links"][0].update(to=["a"])), "no two machines"),
        (broken(lambda t: t["links"][0].update(latency=-1)), "latency of at least 0"),
        (broken(lambda t: t["links"][0].update(bandwidth=0)), "carries nothing"),
        (broken(lambda t: t["links"][0].update(bandwidth=float("nan"))), "bandwidth of at least"),
    ],
)
def test_what_is_no_table_is_one_line(tree: Any, why: str, tmp_path: Path) -> None:
    (tmp_path / "links.json").write_text(json.dumps(tree))
    with pytest.raises(BadInput) as error:
        read_surveyed(tmp_path / "links.json")
    told = str(error.value)
    assert why in told and "checkfree profile --links" in told and "\n" not in told


SMALL = ("stages=2", "model.width=16", "model.heads=2", "model.blocks=2", "model.context=16")


def config_on(tree: Any, folder: Path, *words: str) -> Any:
    (folder / "links.json").write_text(json.dumps(tree))
    given = [*SMALL, "recovery=none", f"fleet.links={folder / 'links.json'}", "fleet.flops=1e9"]
    return load("demo", [*given, *words])


def test_a_run_is_priced_on_measured_lines_and_its_own_sizes(tmp_path: Path) -> None:
    network = network_of(config := config_on(GOOD, tmp_path), seats(config), scheduler_of(config))
    assert network.fleet.link(Address(0), Address(1)) == Link(0.04, 1e6)
    assert network.sizes.name == "own"
    assert network.fleet.name == "paper, lines of links.json"


def test_a_swarm_chooses_formats_by_measured_lines_and_by_no_others(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="profile --links"):
        check_given(load("demo", ["wire=auto"]))
    config = config_on(GOOD, tmp_path, "wire=auto")
    check_given(config)
    chosen = with_links(config).wire.links
    assert chosen[0] == "auto" and any(word.startswith("0.0>1.0=") for word in chosen)
    assert not any(word.startswith("2.0>0.0") for word in chosen), "of one machine"
    check_given(with_links(config))


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nowhere", "--links"], "nowhere is no swarm that is up"),
        (["nowhere", "stages=2", "--links"], "takes a run and no configuration (stages=2)"),
        (["demo", "--json"], "go with --links"),
        (["nowhere", "--links", "--to", "no/where.json"], "a folder that exists"),
    ],
)
def test_what_can_not_be_measured_is_one_line(
    words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["profile", *words]) == 2
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())
