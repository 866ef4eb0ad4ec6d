"""What the actions that lead a run have in common: ``up`` and ``lead``."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from checkfree.cli.arguments import (
    DONE,
    FAILED,
    INTERRUPTED,
    how_to_go_on,
    takes_config,
    takes_resume,
    words_of_resume,
)
from checkfree.cli.interrupts import hold_interrupts
from checkfree.core.errors import BadInput, RunFailed, with_command
from checkfree.runtime.forking import ONE_THREAD
from checkfree.runtime.swarm.presence.liveness import PATIENCE
from checkfree.runtime.swarm.told import tell

if TYPE_CHECKING:
    from checkfree.core.config import Config
    from checkfree.runtime.swarm.joining.joiner_workdir import JoinerWorkdir
    from checkfree.runtime.swarm.processes.launcher import Launcher
    from checkfree.runtime.swarm.processes.workdir import Workdir
    from checkfree.session.swarm.member import JoinOptions

FORK_SERVER = "checkfree.session.swarm.fork_server"
DAEMON = "hivemind_cli/p2pd"
"""In hivemind's folder."""
ANYWHERE = "0.0.0.0:0"
"""Every address of this machine, any port."""


def takes_run(parser: argparse.ArgumentParser) -> None:
    """A run to begin or to go on with, and how patient it is."""
    takes_config(parser, required=False)
    takes_resume(parser)
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.add_argument("--chaos", action="store_true", help="allow checkfree swarm kill")
    parser.add_argument(
        "--patience",
        type=seconds,
        metavar="SECONDS",
        help=f"of silence after which a worker counts as lost (default {PATIENCE}, and six times "
        "the measured round trip to it); one that was killed is noticed at once",
    )
    parser.add_argument("--workdir", type=Path, help=argparse.SUPPRESS)


def takes_log_path(parser: argparse.ArgumentParser) -> None:
    """Where a node that joins writes its logs."""
    parser.add_argument(
        "--log-path",
        type=_folder,
        metavar="FOLDER",
        help="a folder on a local disk of this machine that the logs of its seats are written to, "
        "in place of recovery.log_path of the run; null: they stay in memory",
    )


def _folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty, expected a folder, as in /mnt/nvme, or null")
    return text


def number(least: float, most: float, unit: str) -> Callable[[str], float]:
    """An option's type: a number from ``least`` to ``most``, which are in ``unit``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"got {text}, expected {least} to {most} {unit}")
        return value

    return read


seconds = number(0.1, 3600, "seconds")


def check_machine(action: str) -> None:
    """Raise BadInput unless a swarm can run here."""
    if not sys.platform.startswith("linux"):
        raise BadInput(f"checkfree swarm {action} needs Linux: use checkfree train")
    found = importlib.util.find_spec("hivemind")
    if found is None:
        raise BadInput("hivemind is not installed: pip install 'checkfree[swarm]'")
    for folder in found.submodule_search_locations or ():
        check_daemon(Path(folder) / DAEMON)


def check_daemon(path: Path) -> None:
    """Raise BadInput unless libp2p's daemon is there and may be executed."""
    if not path.is_file():
        raise BadInput(
            f"libp2p's daemon is missing ({path}): pip install --force-reinstall hivemind"
        )
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise BadInput(
            f"libp2p's daemon may not be executed: the file system of {path} is mounted noexec; "
            "install checkfree on one whose programs may run"
        )
    if not os.access(path, os.X_OK):
        raise BadInput(f"libp2p's daemon may not be executed: chmod +x {shlex.quote(str(path))}")


def secret_of(arguments: argparse.Namespace) -> bytes:
    """The token, which from then on stands neither in our command line nor in the environment of
    whom we start. Raises BadInput."""
    from checkfree.cli.secrecy import hide
    from checkfree.runtime.swarm.joining.invitation import TOKEN_VARIABLE, given_token

    secret = given_token(arguments.token, arguments.token_file)
    hide(arguments.token)
    os.environ.pop(TOKEN_VARIABLE, None)
    return secret


@contextmanager
def as_joiner(
    action: str, address: str, secret: bytes, listen: str = ANYWHERE
) -> Iterator[tuple[JoinerWorkdir, JoinOptions]]:
    """Where a process that comes to a run from elsewhere keeps its files, and how it comes in.
    What it needs is looked at before it is imported. Raises BadInput."""
    from checkfree.runtime.swarm.transport.addresses import (
        listen_address,
        parse_listen,
        parse_place,
    )

    place, at = parse_place(address), listen_address(*parse_listen(listen))
    check_machine(action)
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")
    os.environ.update(ONE_THREAD)
    from checkfree.session.swarm.fork_server import cannot_import

    try:
        from checkfree.runtime.swarm.joining.joiner_workdir import joiner_workdir_for
        from checkfree.session.swarm.member import JoinOptions
    except ImportError as error:
        raise BadInput(cannot_import(error)) from None
    with joiner_workdir_for(secret) as workdir:
        yield workdir, JoinOptions(place, secret, at)


@dataclass(frozen=True)
class SwarmRun:
    """What is to be led: its folder, its configuration, and whether it goes on."""

    path: Path
    config: Config
    resume: bool


def run_of(arguments: argparse.Namespace, action: str) -> SwarmRun | None:
    """The run of the command line; None: it is done already. Raises BadInput."""
    from checkfree.config.load import load, load_saved
    from checkfree.config.places import moved
    from checkfree.runtime import folder as folders

    check_machine(action)
    if arguments.resume is None:
        if arguments.config is None:
            raise BadInput(
                f"give a CONFIG, as in: checkfree swarm {action} configs/demo.yaml; or --resume RUN"
            )
        config = load(arguments.config, arguments.words, arguments.allow)
        return SwarmRun(Path(config.out), config, False)
    words = words_of_resume(arguments)
    path = folders.existing(arguments.resume)
    if folders.finished(path):
        print(f"{path} is done: nothing to resume")
        return None
    config = moved(load_saved(path / folders.CONFIG, arguments.allow), words)
    return SwarmRun(path, config, True)


def named(path: Path, arguments: argparse.Namespace) -> None:
    """Become a process whose command line names ``path``, unless we are: all of ours are found
    by that."""
    if arguments.workdir is None:
        hold_interrupts()
        os.execv(sys.executable, [*sys.orig_argv, "--workdir", os.fspath(path)])


Told = Callable[[Mapping[str, Any]], None]


def launch(
    arguments: argparse.Namespace,
    run: SwarmRun,
    action: str,
    more: Mapping[str, Any],
    told: Callable[[Workdir], Told],
) -> int:
    """Lead the run until it ends. ``action`` with ``--resume`` goes on with it; ``more`` goes into
    the fork server's order, ``told`` makes what is told of each event. Returns the exit code."""
    from checkfree.cli.display import Display
    from checkfree.config.load import to_tree
    from checkfree.config.parts import named as from_outside
    from checkfree.config.parts import running
    from checkfree.core.live import LiveStatus
    from checkfree.messages.recorded import read_record
    from checkfree.runtime.folder import begun
    from checkfree.runtime.swarm.processes.fork_server_client import fork_server_command
    from checkfree.runtime.swarm.processes.launcher import Launcher
    from checkfree.runtime.swarm.processes.workdir import Workdir
    from checkfree.runtime.tail import Tail

    workdir = Workdir.of(run.path)
    named(workdir.path, arguments)
    order = {
        "folder": os.fspath(run.path),
        "resume": run.resume,
        "config": to_tree(run.config),
        "allow": sorted(running(run.config)),
        "patience": arguments.patience or PATIENCE,
        "measured": arguments.patience is None,
        **more,
    }
    console = Console(stderr=True, highlight=False)
    words = ["checkfree", "swarm", *action.split(), "--resume", str(run.path)]
    for package in sorted(from_outside(run.config)):
        words += ["--allow", package]
    again = shlex.join(words)
    display = Display(run.config, console, quiet=arguments.quiet, timed=True)
    with workdir.owned(), display:
        launcher = Launcher(
            workdir,
            fork_server_command(FORK_SERVER),
            order,
            tail=Tail(run.path, lambda record: display(read_record(record)), from_end=run.resume),
            chaos=arguments.chaos,
            told=_telling_deadlines(arguments, told(workdir)),
            status=lambda status: display.live(LiveStatus.from_json(status)),
        )
        try:
            died = see_through(launcher, workdir)
        except KeyboardInterrupt:
            print(f"checkfree: interrupted{how_to_go_on(run.path, again)}", file=sys.stderr)
            return INTERRUPTED
        except RunFailed as error:
            raise RunFailed(with_command(str(error), again if begun(run.path) else "")) from None
        finally:
            workdir.clear(keep_logs=True)
    return _result(workdir, run.path, died, again, stopped=launcher.stopped)


def see_through(launcher: Launcher, workdir: Workdir) -> str:
    """Until the run has ended, and that stands in its records. Returns what to say if it does
    not. Raises BadInput, RunFailed or KeyboardInterrupt."""
    from checkfree.runtime.swarm.processes.ending import write_end

    try:
        launcher.run()
    except KeyboardInterrupt:
        write_end(workdir.run, "interrupted", "")
        raise
    except RunFailed as error:
        write_end(workdir.run, "failed", str(error))
        raise
    reason = launcher.reason or f"its lead died, see {workdir.logs}"
    write_end(workdir.run, "interrupted" if launcher.stopped else "failed", reason)
    return reason


def _telling_deadlines(arguments: argparse.Namespace, told: Told) -> Told:
    """Say once, as soon as the run has begun, what deadlines hold."""
    from checkfree.runtime.swarm.presence.liveness import beat_every
    from checkfree.runtime.swarm.presence.stall import render_deadlines

    patience = arguments.patience or PATIENCE
    untold = [render_deadlines(patience, beat_every(patience))]

    def tell_all(event: Mapping[str, Any]) -> None:
        if event.get("event") == "listening" and untold and not arguments.quiet:
            tell(untold.pop())
        told(event)

    return tell_all


def _result(workdir: Workdir, path: Path, died: str, again: str, *, stopped: bool) -> int:
    """``died`` is what to say if the records don't tell how the run ended."""
    from checkfree.core.records import RECORDS, of_kind, read
    from checkfree.runtime.folder import begun

    records = read(path) if (path / RECORDS).is_file() else []
    end, steps = records[-1] if records else {}, of_kind(records, "iteration")
    if stopped and end.get("status") == "interrupted":
        print(f"stopped after {end['iteration']} iterations{how_to_go_on(path, again)}")
        return DONE
    if end.get("status") != "done":
        reason = with_command(end.get("reason", died), again if begun(path) else "")
        print(f"checkfree: the run ended: {reason}", file=sys.stderr)
        return FAILED
    workdir.clear(keep_logs=False)
    last = f"; last loss {steps[-1]['loss']:.4f}" if steps else ""
    print(f"{end['iteration']} iterations in {path}{last}")
    return DONE
