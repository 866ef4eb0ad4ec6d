"""The processes of a node that others lead: one for each seat that it has, and one more that stands
by for the next, as long as there is room.

All are forks of one process that has imported and opened everything, and has neither thread, event
loop, daemon nor CUDA context: so a further seat costs what it changes, not what it shares. The
parent dies last; if it is killed, all of them go with it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import FrameType
from typing import Any

from checkfree.runtime.forking import render_threads
from checkfree.runtime.parent import die_with_parent
from checkfree.runtime.swarm.processes.fork_server import call

ENDED, FAILED, AGAIN, INTERRUPTED = 0, 1, 75, 130
"""Exit codes: the run is done, or we left it; it or we failed; start me again (EX_TEMPFAIL of
sysexits.h); told to go at once."""
BREATH = 1.0
"""Seconds after which a process that died is started again."""
HASTE, MOST_HASTY = 20.0, 4
"""So many deaths within so many seconds each, and it is no accident."""
NOTICED = signal.SIGUSR1
"""What a watcher sends us: this machine is about to end, and may send its own SIGTERM soon."""
NOT_NEEDED = signal.SIGUSR2
"""What we send a fork that stands by beside others. It heeds it if it has nothing to lose."""
HEEDED = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, NOTICED)

Report = Callable[[Mapping[str, Any]], None]
"""How a fork tells its parent {"seated": seat}; {"standing": true, "keeps": …}: whether it has, or
awaits, a state; {"adrift": …}: whether it has a seat and looks for the lead; {"wanted": …}: how
many the lead would have live here, seated ones included; and {"over": true}: the run has ended for
good."""
Main = Callable[[int, Report], int]
"""What a fork does: its number among those that live, and how it reports. Returns its code."""


@dataclass
class _Fork:
    pid: int
    slot: int
    stream: socket.socket
    since: float
    stands: float | None = None
    """By, and since when; the lead may get to know of it a moment later."""
    seated: bool = False
    keeps: bool = False
    adrift: bool = False
    spared: bool = False
    """Told to end, for another stands by."""
    spoke_last: bool = False
    """That the run has ended, and is about to end itself."""
    rest: bytes = b""


class Forks:
    """``room``: seats at most. ``say`` is told what goes wrong. ``watch`` is what one more fork
    does: it returns True once this machine is about to end, and False if nobody would tell."""

    def __init__(
        self,
        main: Main,
        room: int,
        say: Callable[[str], None],
        watch: Callable[[], bool] | None = None,
    ):
        self._main, self._room, self._say, self._watch = main, room, say, watch
        self._watcher = 0
        self._noticed = False
        self._forks: dict[int, _Fork] = {}
        self._asked = 0
        self._code = ENDED
        self._hasty, self._wanted = 0, 0
        self._over = self._ended_for_good = False
        self._due: float | None = None

    def run(self) -> int:
        """Until none is left. Returns the exit code."""
        told = render_threads()
        if told:
            self._say(told)
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waker, False)
        for number in HEEDED:
            signal.signal(number, self._signalled)
        signal.set_wakeup_fd(self._waker)
        if self._watch is not None:
            self._fork_watcher(self._watch)
        self._fork()
        while self._forks or self._due is not None:
            self._wait()
            self._reap()
            self._start_due()
        if self._watcher:
            with suppress(ProcessLookupError):
                os.kill(self._watcher, signal.SIGKILL)
        return self._code

    # --- what is heard ---------------------------------------------------------------------------

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGCHLD:
            return
        if number == signal.SIGTERM and self._noticed:
            self._noticed = False  # the machine's own end, of which we know
            return
        if number == NOTICED and self._asked:
            return
        self._noticed = number == NOTICED
        self._asked += 1
        self._due = None
        for pid in self._forks:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if self._asked == 1 else signal.SIGKILL)
        if self._asked > 1:
            self._code = INTERRUPTED

    def _wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for fork in self._forks.values():
                if fork.stream.fileno() >= 0:
                    selector.register(fork.stream, selectors.EVENT_READ, fork)
            within = None if self._due is None else max(0.0, self._due - time.monotonic())
            for key, _ in selector.select(within):
                if key.data is None:
                    with suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                else:
                    self._hear(key.data)

    def _hear(self, fork: _Fork) -> None:
        data = fork.stream.recv(1 << 16)
        if not data:
            fork.stream.close()
            return
        *lines, fork.rest = (fork.rest + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "over" in said:
                self._over = self._ended_for_good = fork.spoke_last = True
            elif "adrift" in said:
                fork.adrift = bool(said["adrift"])
            elif "wanted" in said:
                self._wanted = int(said["wanted"])
            else:
                since = time.monotonic() if fork.stands is None else fork.stands
                fork.stands = since if "standing" in said else None
                fork.seated, fork.keeps = "seated" in said, said.get("keeps", False)
                fork.spared = fork.spared and not fork.seated and not fork.keeps
            self._keep_some_standing()
            self._let_go()

    def _let_go(self) -> None:
        """Once the run has ended for good: whoever has no seat, or has lost the lead, is told by
        nobody, and would look for a lead with a state that is of no use any more."""
        for fork in self._forks.values():
            heard = (fork.seated and not fork.adrift) or fork.spoke_last
            if self._ended_for_good and not (heard or fork.spared):
                fork.spared = True
                with suppress(ProcessLookupError):
                    os.kill(fork.pid, signal.SIGKILL)

    def _keep_some_standing(self) -> None:
        """As many as are wanted, and one that stands by even if none is, while there is room for
        more seats; and no more, but for those with a state: they have a seat soon. Whoever is on
        its way to stand by comes there first: what is wanted changes faster than one is made."""
        if self._asked or self._over:
            return
        stay = [fork for fork in self._forks.values() if not fork.spared]
        waiting = [fork for fork in stay if not fork.seated]
        most = max(1, self._wanted - (len(stay) - len(waiting)))
        for _ in range(min(most - len(waiting), self._room - len(stay))):
            self._fork()
        standing = [(f.stands, f.pid, f) for f in waiting if f.stands is not None and not f.keeps]
        for _, _, fork in sorted(standing)[most:]:
            fork.spared = True
            with suppress(ProcessLookupError):
                os.kill(fork.pid, NOT_NEEDED)

    def _reap(self) -> None:
        while self._forks:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            fork = self._forks.pop(pid, None)
            if pid == self._watcher:
                self._watcher = 0
            if fork is not None:
                fork.stream.close()
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # its daemon, if that outlived it
                self._ended(fork, os.waitstatus_to_exitcode(status))

    def _ended(self, fork: _Fork, code: int) -> None:
        if code >= 0 and not fork.spared:
            fine = self._code in (ENDED, AGAIN)  # what the last one came to counts
            self._code = code if fine else max(self._code, code)
        if self._asked or fork.spared:
            return
        if code < 0:
            return self._died(fork, code)
        if code == AGAIN:
            self._room = len(self._forks)  # no more than those that there is memory for, or a lead
        else:
            self._over = True  # the run is over, or we are refused, or broken: for the others too
            for other in self._forks.values():
                if not other.seated:
                    with suppress(ProcessLookupError):
                        os.kill(other.pid, signal.SIGTERM)

    def _died(self, fork: _Fork, code: int) -> None:
        """Killed; unless that goes on, another takes its place."""
        hasty = time.monotonic() - fork.since < HASTE
        self._hasty = self._hasty + 1 if hasty else 0
        self._say(f"one of its processes was killed (signal {-code})")
        if self._hasty > MOST_HASTY:
            self._code, self._asked = FAILED, 1
            return
        if all(other.seated for other in self._forks.values()):
            self._due = time.monotonic() + BREATH

    def _start_due(self) -> None:
        if self._due is not None and time.monotonic() >= self._due:
            self._due = None
            if not self._asked and all(fork.seated for fork in self._forks.values()):
                self._fork()

    # --- forks -----------------------------------------------------------------------------------

    def _fork(self) -> None:
        ours, its = socket.socketpair()
        taken = {fork.slot for fork in self._forks.values()}
        slot = next(number for number in count() if number not in taken)
        parent = os.getpid()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            its.close()
            self._forks[pid] = _Fork(pid, slot, ours, time.monotonic())
            return
        ours.close()
        self._be(parent, "seat", lambda: self._main(slot, _reporter(its)))

    def _fork_watcher(self, watch: Callable[[], bool]) -> None:
        parent = os.getpid()
        sys.stderr.flush()
        self._watcher = os.fork()
        if self._watcher == 0:
            self._be(parent, "watcher", partial(_warn, parent, watch))

    def _be(self, parent: int, name: str, work: Callable[[], int]) -> None:
        """What a fork does, and nothing after it."""
        code = FAILED
        try:
            faulthandler.enable()
            self._become_own(parent, name)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stderr.flush()
            os._exit(code)

    def _become_own(self, parent: int, name: str) -> None:
        """The leader of a process group, that dies with its parent and has nothing of it."""
        os.setsid()
        die_with_parent(parent)
        signal.set_wakeup_fd(-1)
        for number in HEEDED:
            signal.signal(number, signal.SIG_DFL)
        for private in (self._woken, self._waker):
            os.close(private)
        for fork in self._forks.values():
            fork.stream.close()
        call(name)


def _warn(parent: int, watch: Callable[[], bool]) -> int:
    if watch():
        os.kill(parent, NOTICED)
    return ENDED


def _reporter(stream: socket.socket) -> Report:
    def report(said: Mapping[str, Any]) -> None:
        with suppress(OSError):
            stream.sendall(json.dumps(said).encode() + b"\n")

    return report
