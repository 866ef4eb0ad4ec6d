"""``checkfree swarm``: up, status, kill."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from checkfree.cli.arguments import DONE, FAILED, INTERRUPTED, Commands, takes_config
from checkfree.errors import BadInput

NURSERY = "checkfree.build.swarm"


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("swarm", help="train across processes that may disappear")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    up = actions.add_parser("up", help="start lead and workers on this machine, and train")
    takes_config(up, required=False)
    up.add_argument("--resume", metavar="RUN", type=Path, help="the folder of a stopped run")
    up.add_argument("--quiet", action="store_true", help="print the result only")
    up.add_argument("--chaos", action="store_true", help="allow checkfree swarm kill")
    up.add_argument(
        "--patience",
        type=_seconds,
        default=1.5,
        metavar="SECONDS",
        help="of silence after which a worker counts as lost (default 1.5); one that was killed "
        "is noticed at once",
    )
    up.add_argument(
        "--spares",
        type=int,
        choices=range(9),
        default=1,
        metavar="N",
        help="processes that stand by to take the seat of one that is lost (default 1)",
    )
    up.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    up.set_defaults(run=_up)
    status = actions.add_parser("status", help="who sits where, and how far the run is")
    status.add_argument("folder", metavar="RUN", type=Path)
    status.add_argument("--json", action="store_true", help="all of it, for programs")
    status.set_defaults(run=_status)
    kill = actions.add_parser("kill", help="kill a worker of a run that allows it (--chaos)")
    kill.add_argument("folder", metavar="RUN", type=Path)
    kill.add_argument("seat", metavar="SEAT", help="as in 2.0")
    kill.add_argument("--signal", default="KILL", help="KILL (default), STOP or CONT")
    kill.set_defaults(run=_kill)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"got {text}, expected 0.1 to 3600 seconds")
    return value


# --- up ------------------------------------------------------------------------------------------


def _up(arguments: argparse.Namespace) -> int:
    from checkfree.load import load
    from checkfree.runtime import folder as folders
    from checkfree.runtime.swarm.home import Home

    if not sys.platform.startswith("linux"):
        raise BadInput("checkfree swarm up needs Linux: use checkfree train")
    if arguments.resume is not None:
        if arguments.config is not None:
            raise BadInput("--resume RUN takes no other argument: the run knows its configuration")
        path = folders.existing(arguments.resume)
        if folders.finished(path):
            print(f"{path} is done: nothing to resume")
            return DONE
        config = load(path / folders.CONFIG)
    elif arguments.config is None:
        raise BadInput(
            "give a CONFIG, as in: checkfree swarm up configs/demo.yaml; or --resume RUN"
        )
    else:
        config = load(arguments.config, arguments.words)
        path = Path(config.out)
    home = Home.of(path)
    if arguments.home is None:  # every process of a run names its folder
        os.execv(sys.executable, [*sys.orig_argv, "--home", os.fspath(home.path)])
    return _launch(arguments, home, path, config)


def _launch(arguments: argparse.Namespace, home: Any, path: Path, config: Any) -> int:
    from checkfree.display import Display
    from checkfree.load import to_tree
    from checkfree.runtime.swarm.launcher import Launcher, nursery_command
    from checkfree.runtime.swarm.tail import Tail

    order = {
        "folder": os.fspath(path),
        "resume": arguments.resume is not None,
        "config": to_tree(config),
        "patience": arguments.patience,
        "spares": arguments.spares,
    }
    console = Console(stderr=True, highlight=False)
    with home.owned(), Display(config, console, quiet=arguments.quiet) as display:
        launcher = Launcher(
            home,
            nursery_command(NURSERY),
            order,
            tail=Tail(path, display, arguments.resume is not None),
            chaos=arguments.chaos,
        )
        try:
            launcher.run()
        except KeyboardInterrupt:
            begun = (path / "config.yaml").is_file()
            words = f"; go on: checkfree swarm up --resume {path}" if begun else ""
            print(f"checkfree: interrupted{words}", file=sys.stderr)
            return INTERRUPTED
        finally:
            home.clear(keep_logs=True)
    return _result(home, path)


def _result(home: Any, path: Path) -> int:
    from checkfree.record import of_kind, read

    records = read(path)
    end, steps = records[-1] if records else {}, of_kind(records, "iteration")
    if end.get("kind") != "end":
        again = f"go on: checkfree swarm up --resume {path}"
        print(f"checkfree: the lead of the run died, see {home.logs}; {again}", file=sys.stderr)
        return FAILED
    if end["status"] != "done":
        print(f"checkfree: the run ended: {end['reason']}", file=sys.stderr)
        return FAILED
    home.clear(keep_logs=False)
    last = f"; last loss {steps[-1]['loss']:.4f}" if steps else ""
    print(f"{end['iteration']} iterations in {path}{last}")
    return DONE


# --- status and kill -----------------------------------------------------------------------------


def _ask(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """A question to the launcher. What a dead one left is swept first."""
    from checkfree.runtime.swarm.control import ask
    from checkfree.runtime.swarm.home import Home

    home = Home.of(folder)
    if not home.alive:
        swept = home.sweep() if home.path.is_dir() else 0
        home.clear(keep_logs=True)
        told = f"; {swept} leftover processes were killed" if swept else ""
        raise BadInput(f"{folder} is no swarm that is up{told}")
    return ask(home, request)


def _status(arguments: argparse.Namespace) -> int:
    told = _ask(arguments.folder, {"ask": "status"})
    if arguments.json:
        print(json.dumps(told))
        return DONE
    if "iteration" in told:
        print(
            f"iteration {told['iteration']}, loss {told['loss']:.4f}, {told['seconds']:.2f} s each"
        )
    states = told.get("seats", {})
    for seat, child in told["processes"].items():
        state = states.get(seat, "leads" if seat == "lead" else "joins")
        life = f"life {child['life']}" if child["life"] else ""
        print(f"{seat:>6}  {state if child['process'] else 'lost':8} pid {child['pid']:<8} {life}")
    return DONE


def _kill(arguments: argparse.Namespace) -> int:
    request = {"ask": "kill", "seat": arguments.seat, "signal": arguments.signal.upper()}
    told = _ask(arguments.folder, request)
    print(f"SIG{request['signal']} to {told['killed']}, life {told['life']}, pid {told['pid']}")
    return DONE
