"""One run on several hosts, each with an address of its own: who joins, late or not, who leaves,
who is killed, and a link that is cut and comes back."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import checkfree
from checkfree.cli import main
from checkfree.config.load import load
from checkfree.core.records import of_kind, read
from checkfree.runtime.swarm.joining.invitation import Register
from checkfree.runtime.swarm.joining.joiner_workdir import joiner_path
from checkfree.runtime.swarm.processes.control import ask
from checkfree.runtime.swarm.processes.workdir import Workdir
from checkfree.runtime.swarm.transport.addresses import Place, best_first
from tests.chaos import SOAK
from tests.process.command import (
    checkfree_command,
    descendants,
    last_tick,
    losses,
    numbers,
    wait_until,
)
from tests.process.hosts import Network, Process, may, network

NEEDED = os.environ.get("CHECKFREE_NEED_NETNS") == "1"
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("hivemind") is None, reason="hivemind is not installed"
    ),
    pytest.mark.skipif(
        not NEEDED and not (sys.platform == "linux" and may()),
        reason="no right to make network namespaces",
    ),
]
LONG = "iterations=100000"
SMALL = ("stages=2", "microbatches=2", "validation.every=0", "resume.every=0", "failures=none")


class Hosts:
    """A lead on host 0, and joiners on others."""

    def __init__(self, net: Network, folder: Path):
        self.net, self.folder = net, folder
        self.started: list[Process] = []
        self.run = folder / "run"
        self.line: list[str] = []

    def lead(self, *words: str, patience: float = 60) -> Process:
        """Started, and its join line known. A loaded machine stalls for a second at times:
        nobody is to be lost for that, if not for a test's own reasons."""
        command = checkfree_command("swarm", "lead", *words, f"--patience={patience:g}")
        process = self._start(0, command, "lead")
        known = len(self.line)
        wait_until(lambda: self.said("lead").count("--token") > known, process)
        self.line = re.findall(r"^checkfree (swarm join \S+ --token \S+)$", self.said("lead"), re.M)
        assert len(self.line) == len(set(self.line))
        assert self.net.address(0) in self.line[-1]
        return process

    def join(self, host: int, *more: str, line: str = "") -> Process:
        words = (line or self.line[-1]).split()
        return self._start(host, checkfree_command(*words, *more), f"host{host}")

    def _start(self, host: int, command: list[str], name: str) -> Process:
        process = self.net.on(host, self.folder, command, self.folder / name)
        self.started.append(process)
        return process

    def said(self, name: str) -> str:
        return (self.folder / name).read_text()

    def waits_for(self, text: str, host: int, after: int, lead: Process) -> None:
        """Until a host has said it once more than ``after`` times."""
        wait_until(lambda: self.times(text, host) > after, lead)

    def times(self, text: str, host: int) -> int:
        """That a host has said it so far."""
        return self.said(f"host{host}").count(text)

    def seat_of(self, host: int) -> str:
        """The last that it took."""
        return re.findall(r"takes seat (\d\.\d)", self.said(f"host{host}"))[-1]

    def status(self) -> dict[str, Any]:
        return ask(Workdir.of(self.run), {"ask": "status"})

    def stop(self) -> None:
        """Of the run and of all that take part."""
        assert main(["swarm", "stop", str(self.run), "--all"]) == 0

    def line_of_a_member(self) -> str:
        """As the lead's, but with the address of somebody else."""
        register = Register(Workdir.of(self.run).path / "members")
        wait_until(lambda: len(register.read()) > 0, self.started[0])
        member, words = register.read()[-1], self.line[-1].split()
        place = Place(member.id, best_first(member.addresses))
        return " ".join((*words[:2], str(place), *words[3:]))

    def sits(self, host: int) -> bool:
        return "takes seat" in self.said(f"host{host}")

    def written(self) -> str:
        """All in the run folder, logs included, but for the lead's own file of what to invite with
        again, which only its owner can read."""
        files = [path for path in self.run.rglob("*") if path.is_file()]
        open_to_all = [path for path in files if path.name != "invitation"]
        return "".join(path.read_bytes().decode("latin-1") for path in open_to_all)

    def comes_to(self, tick: int, process: Process) -> None:
        wait_until(lambda: last_tick(self.run) >= tick, process)

    def goes_on(self, process: Process, ticks: int = 2) -> None:
        self.comes_to(last_tick(self.run) + ticks, process)

    def end(self) -> None:
        """Whoever looks at a failure is shown the last lines of all."""
        for process in self.started:
            process.kill()
            process.wait()
        Workdir.of(self.run).kill_leftovers()
        for path in (*sorted(self.folder.glob("host*")), self.folder / "lead"):
            if path.exists():
                print(path.name, *path.read_text().splitlines()[-15:], sep="\n  ")


@pytest.fixture
def hosts(folder: Path) -> Iterator[Hosts]:
    with network(5) as net:
        made = Hosts(net, folder)
        try:
            yield made
        finally:
            made.end()


def ended(process: Process, expect: int) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=120)
    assert process.poll() == expect


def kill_daemon(joined: Process) -> None:
    """The libp2p daemon of a process that joined: nobody hears or reaches it any more."""
    mark = f"{joiner_path().name.rpartition('-')[0]}-{joined.pid}/s/p2pd".encode()
    found = [p.parent.name for p in Path("/proc").glob("[0-9]*/cmdline") if mark in read_or_not(p)]
    assert len(found) == 1
    os.kill(int(found[0]), signal.SIGKILL)


def read_or_not(path: Path) -> bytes:
    """Nothing, of a process that is gone by now."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def in_one_process(folder: Path, *words: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        checkfree.train(load("small.yaml", ["out=one", *words]))
    return folder / "one"


def rules(plan: Mapping[str, Any]) -> list[str]:
    return [made["rule"] for made in plan["rebuilds"].values()]


def replayed(folder: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code = main(["verify", "run", "--quiet"])
    return code == 0 and "equal bit for bit" in capsys.readouterr().out


def test_joins_and_leaves_do_not_show_in_the_numbers(
    hosts: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    """One loses its libp2p daemon and comes back with its state, one leaves and a spare takes over,
    one leaves to nobody, until somebody comes late."""
    lead = hosts.lead("small.yaml", LONG, *SMALL, "out=run")
    joined = {host: hosts.join(host, "--seats=1") for host in (1, 2, 3, 4)}
    wait_until(lambda: "every seat is taken; 1 stand by" in hosts.said("lead"), lead)
    hosts.comes_to(1, lead)
    spare, first, second, *_ = sorted(joined, key=hosts.sits)
    stood = hosts.times("stands by", spare)
    kill_daemon(joined[second])
    hosts.waits_for("with the state that it has", second, 0, lead)
    hosts.waits_for("stands by", spare, stood, lead)  # again: it had taken that seat meanwhile
    joined[first].send_signal(signal.SIGTERM)
    ended(joined[first], 0)
    assert hosts.seat_of(spare) == hosts.seat_of(first)
    hosts.goes_on(lead)
    os.killpg(joined[second].pid, signal.SIGINT)  # as a terminal sends it: to its daemon too
    ended(joined[second], 0)
    seat = hosts.seat_of(second)
    waits = f"vacant: {seat}; nobody has stage {seat[0]}: it waits"
    wait_until(lambda: waits in hosts.said("lead"), lead)
    ended(hosts.join(second, line=hosts.line[0][:-4] + "0000"), 2)
    assert "wrong token" in hosts.said(f"host{second}")
    taken = hosts.times("takes seat", first)
    late = hosts.join(first)
    hosts.waits_for("takes seat", first, taken, lead)
    assert hosts.seat_of(first) == seat
    hosts.goes_on(lead)
    hosts.stop()
    ended(lead, 0)
    ended(late, 0)
    for host in joined:
        told = hosts.said(f"host{host}")
        assert "Task was destroyed" not in told
        assert "Traceback" not in told
    rebuilt = [made for plan in of_kind(read(hosts.run), "plan") for made in rules(plan)]
    assert rebuilt == ["back", "handover", "handover"]
    made = losses(hosts.run)
    assert made == losses(in_one_process(hosts.folder, f"iterations={len(made)}", *SMALL))
    assert hosts.line[0].split()[-1] not in hosts.written()
    assert replayed(hosts.folder, capsys)


@pytest.mark.skipif(not SOAK, reason="40 seconds: CHECKFREE_SOAK=1")
def test_a_host_that_is_cut_off_is_replaced_and_comes_back_as_a_spare(
    hosts: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    """And takes the seat of one that is killed after that."""
    words = ("small.yaml", LONG, *SMALL, "recovery=checkpoint", "recovery.interval=4", "out=run")
    lead = hosts.lead(*words, patience=4)
    joined = {host: hosts.join(host, "--seats=1") for host in (1, 2, 3, 4)}
    wait_until(lambda: "every seat is taken; 1 stand by" in hosts.said("lead"), lead)
    hosts.comes_to(1, lead)
    spare, cut, killed, _ = sorted(joined, key=hosts.sits)
    stood, taken = hosts.times("stands by", cut), hosts.times("takes seat", cut)
    hosts.net.link(cut, "down")
    hosts.waits_for("out of reach", cut, hosts.times("out of reach", cut), lead)
    wait_until(lambda: hosts.sits(spare), lead)
    hosts.goes_on(lead)
    hosts.net.link(cut, "up")
    hosts.waits_for("stands by", cut, stood, lead)
    joined[killed].kill()
    hosts.waits_for("takes seat", cut, taken, lead)
    hosts.goes_on(lead)
    hosts.stop()
    ended(lead, 0)
    ended(joined[cut], 0)
    assert replayed(hosts.folder, capsys)


@pytest.mark.skipif(not SOAK, reason="30 seconds: CHECKFREE_SOAK=1")
def test_two_that_cant_reach_each_other_train_on(
    hosts: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the start, one of the others being a node that nobody can call, and once they could:
    whoever is given up for it comes back with its state, and nothing is trained twice. Nor is it
    when the lead has passed on as much for two as it would, and one of them hands its seat on."""
    hosts.net.part(1, 2)
    most = "--relay=0.001"
    lead = hosts.lead("small.yaml", LONG, *SMALL, "out=run", "--wait=3", most, patience=4)
    for host, where in ((1, "0.0.0.0:0"), (2, "0.0.0.0:0"), (3, "127.0.0.1:4003")):
        hosts.join(host, "--seats=1", f"--host=h{host}", f"--listen={where}")
    hosts.comes_to(5, lead)
    said = hosts.said("lead")
    assert re.search("h[12] and h[12] can't reach each other", said)
    assert "h3 can't be called at /ip4/127.0.0.1/tcp/4003 (Connection refused)" in said
    assert [h for h in (1, 2, 3) if "nobody can call" in hosts.said(f"host{h}")] == [3]
    assert "is apart" not in said
    assert not of_kind(read(hosts.run), "failure")
    hosts.net.part(2, 3)
    hosts.goes_on(lead, 5)
    wait_until(lambda: "changes hands: the lead has passed on" in hosts.said("lead"), lead)
    hosts.goes_on(lead, 5)
    hosts.stop()
    ended(lead, 0)
    how = {rule for plan in of_kind(read(hosts.run), "plan") for rule in rules(plan)}
    assert "handover" in how
    assert how <= {"back", "handover"}
    made = losses(hosts.run)
    assert made == losses(in_one_process(hosts.folder, f"iterations={len(made)}", *SMALL))
    assert replayed(hosts.folder, capsys)


@contextmanager
def crawling(pid: int) -> Iterator[None]:
    """A node that gets little of its machine: its processes run for a twentieth of a second, again
    and again, and then stand for six times as long."""
    over, processes = threading.Event(), (pid, *descendants(pid))

    def crawl() -> None:
        while not over.wait(0.05):
            for signal_to_all in (signal.SIGSTOP, signal.SIGCONT):
                for process in processes:
                    os.kill(process, signal_to_all)
                over.wait(0.3 if signal_to_all == signal.SIGSTOP else 0.0)

    thread = threading.Thread(target=crawl)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.skipif(not SOAK, reason="two minutes: CHECKFREE_SOAK=1")
def test_whoever_holds_up_all_others_hands_its_seat_to_a_spare(
    hosts: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that computes slowly, and, once another has come in its place, one on a narrow line."""

    def who(seat: str) -> str:
        nodes = hosts.status()["nodes"]
        return next((str(node["host"]) for node in nodes if seat in node["seats"]), "")

    more = ("stages=3", "model.blocks=3", "microbatches=6", "batch=16", "out=run")
    wide = ("model.width=64", "model.hidden=512", "model.context=64")
    lead = hosts.lead("small.yaml", LONG, *SMALL, *more, *wide, "--seats=1", "--wait=5")
    spare = platform.node()[:64]
    joined = {f"h{host}": hosts.join(host, "--seats=1", f"--host=h{host}") for host in range(1, 5)}
    hosts.comes_to(3, lead)
    slow, narrow = who("2.0"), who("3.0")
    assert {slow, narrow} < joined.keys()
    with crawling(joined[slow].pid):
        wait_until(lambda: who("2.0") == spare, lead)
    assert "2.0 is slow: everybody waits" in hosts.said("lead")
    joined[slow].terminate()
    ended(joined[slow], 0)
    hosts.join(int(slow[1:]), "--seats=1", "--host=again")
    wait_until(lambda: who("2.0") == "again", lead)
    hosts.net.narrow(int(narrow[1:]), 8.0, 2.0)
    wait_until(lambda: who("3.0") == spare, lead)
    assert re.search(r"3\.0 is slow: .* for its line", hosts.said("lead"))
    hosts.goes_on(lead)
    hosts.stop()
    ended(lead, 0)
    how = {rule for plan in of_kind(read(hosts.run), "plan") for rule in rules(plan)}
    assert how == {"handover"}
    assert replayed(hosts.folder, capsys)


def test_the_lead_dies_and_comes_back_elsewhere(
    hosts: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    """First its process is killed, then all on its host; members find it at another port."""
    more = ("iterations=60", *SMALL, "resume.every=5")
    lead = hosts.lead("small.yaml", *more, "out=run")
    joined = [hosts.join(host, "--seats=1") for host in (1, 2)]
    wait_until(lambda: hosts.sits(1) and hosts.sits(2), lead)
    joined.append(hosts.join(3, "--seats=1", line=hosts.line_of_a_member()))
    hosts.comes_to(1, lead)
    os.kill(hosts.status()["processes"]["lead"]["pid"], signal.SIGKILL)
    hosts.goes_on(lead, 8)
    lead.kill()
    lead.wait()
    lead = hosts.lead("--resume", "run", "--listen=0.0.0.0:4099", patience=60)
    ended(lead, 0)
    for process in joined:
        ended(process, 0)
    alone = in_one_process(hosts.folder, *more)
    assert losses(hosts.run) == losses(alone)
    assert numbers(hosts.run)["weights"] == numbers(alone)["weights"]
    assert replayed(hosts.folder, capsys)
    assert Workdir.of(hosts.run).processes() == []
