"""The commands. Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from checkfree.errors import BadInput, RunFailed

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input is one line, never a traceback."""
    arguments = _parse(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(arguments.run(arguments))
    except BadInput as error:
        print(f"checkfree: {error}", file=sys.stderr)
        return BAD_INPUT
    except RunFailed as error:
        print(f"checkfree: {error}", file=sys.stderr)
        return FAILED
    except (MemoryError, torch_memory_error()) as error:
        reason = str(error).splitlines()[0] if str(error) else "this machine has too little"
        print(f"checkfree: out of memory: {reason}; lower batch or model sizes", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # whoever read our output, as `head`, has had enough
        sys.stderr.close()
        return FAILED
    except KeyboardInterrupt:
        print("checkfree: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """key=value words may stand anywhere, also behind an option."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and not hasattr(arguments, "words")):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        arguments.words = [*arguments.words, *rest]
    return arguments


def torch_memory_error() -> type[BaseException]:
    """torch's own, if torch was needed at all."""
    torch = sys.modules.get("torch")
    return getattr(torch, "OutOfMemoryError", MemoryError)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """A node that is taken away gets SIGTERM first: as good as Ctrl-C."""
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="checkfree",
        description="Pipeline-parallel training that survives the loss of whole stages.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _train_command(commands.add_parser("train", help="train through failures"))
    _schedule_command(commands.add_parser("schedule", help="print and draw a schedule"))
    failures = commands.add_parser("failures", help="sample or show a failure trace")
    kinds = failures.add_subparsers(required=True, metavar="sample|show")
    _sample_command(kinds.add_parser("sample", help="write the trace of a configuration"))
    _show_command(kinds.add_parser("show", help="draw a trace file"))
    return parser


def _takes_config(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "config",
        nargs=None if required else "?",
        metavar="CONFIG",
        help="a YAML file, or the name of one that ships (demo)",
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="as in iterations=100")


# --- train ---------------------------------------------------------------------------------------


def _train_command(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train as configured; --resume goes on with a run that was stopped."
    _takes_config(parser, required=False)
    parser.add_argument("--resume", metavar="RUN", type=Path, help="the folder of a stopped run")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from checkfree.load import load
    from checkfree.runtime import folder as folders

    if arguments.resume is not None:
        if arguments.config is not None:
            raise BadInput("--resume RUN takes no other argument: the run knows its configuration")
        path = folders.existing(arguments.resume)
        if folders.finished(path):
            print(f"{path} is done: nothing to resume")
            return DONE
        return _go(arguments, path, load(path / folders.CONFIG), fresh=False)
    if arguments.config is None:
        raise BadInput("give a CONFIG, as in: checkfree train configs/demo.yaml; or --resume RUN")
    config = load(arguments.config, arguments.words)
    return _go(arguments, Path(config.out), config, fresh=True)


def _go(arguments: argparse.Namespace, path: Path, config: object, *, fresh: bool) -> int:
    from checkfree.build.train import resume, train
    from checkfree.config import Config
    from checkfree.display import Display

    assert isinstance(config, Config)
    console = Console(stderr=True, highlight=False)
    try:
        with Display(config, console, quiet=arguments.quiet) as display:
            run = train(config, listeners=[display]) if fresh else resume(path, listeners=[display])
    except KeyboardInterrupt:
        print(f"checkfree: interrupted; go on: checkfree train --resume {path}", file=sys.stderr)
        return INTERRUPTED
    if run.status != "done":
        print(f"checkfree: the run ended: {run.reason}", file=sys.stderr)
        return FAILED
    last = f"; last loss {run.losses[-1]:.4f}" if run.losses else ""
    print(f"{run.config.iterations} iterations in {run.folder}{last}")
    return DONE


# --- schedule ------------------------------------------------------------------------------------


def _schedule_command(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the schedule of a configuration as a grid; draw its timeline."
    _takes_config(parser, required=True)
    parser.add_argument(
        "--picture",
        metavar="FILE",
        type=Path,
        default=Path("schedule.png"),
        help="where the timeline goes: .png, .svg or .pdf (default: schedule.png)",
    )
    parser.set_defaults(run=_schedule)


def _schedule(arguments: argparse.Namespace) -> int:
    from checkfree.build.show import show_schedule
    from checkfree.load import load

    print(show_schedule(load(arguments.config, arguments.words), arguments.picture))
    return DONE


# --- failures ------------------------------------------------------------------------------------


def _sample_command(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write the failures of a configuration as a trace file."
    _takes_config(parser, required=True)
    parser.add_argument("--ticks", type=int, help="how many (default: the run's iterations)")
    parser.add_argument("--to", metavar="FILE", type=Path, help="default: standard output")
    parser.set_defaults(run=_sample)


def _sample(arguments: argparse.Namespace) -> int:
    from checkfree.checks import at_least
    from checkfree.failures import picture, render_trace, sample, summary, write_trace
    from checkfree.load import load

    config = load(arguments.config, arguments.words)
    ticks = config.iterations if arguments.ticks is None else arguments.ticks
    at_least("--ticks", ticks, 1)
    size = {"stages": config.stages, "replicas": config.replicas}
    trace = sample(config.failures, seed=config.seed, ticks=ticks, **size)
    if arguments.to is None:
        print(render_trace(trace), end="")
        return DONE
    try:
        write_trace(trace, arguments.to)
    except OSError as error:
        raise BadInput(f"--to {arguments.to} cannot be written: {error.strerror}") from None
    print(summary(trace))
    print(picture(trace, stages=config.stages, ticks=ticks, width=_width()))
    return DONE


def _show_command(parser: argparse.ArgumentParser) -> None:
    parser.description = "Draw a trace file: stages down, ticks across."
    parser.add_argument("file", metavar="FILE", help="a trace, as failures sample writes it")
    parser.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    from checkfree.failures import picture, read_trace, summary

    trace = read_trace(arguments.file, None, None)
    print(summary(trace))
    if trace:
        stages = max(failure.stage for failure in trace)
        ticks = 1 + max(failure.tick for failure in trace)
        print(picture(trace, stages=stages, ticks=ticks, width=_width()))
    return DONE


def _width() -> int:
    return Console().width


if __name__ == "__main__":
    sys.exit(main())
