"""``checkfree generate``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from checkfree.cli.arguments import DONE, Commands, takes_allow, takes_state
from checkfree.core.records import render_unread

if TYPE_CHECKING:
    from checkfree.session.language_model import LanguageModel


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("generate", help="have a trained model go on with a text")
    parser.description = (
        "Continue a text with the model of a run, or of a folder as the Hugging Face Hub has them. "
        "Each letter is shown as soon as it is there; equal seeds give equal texts."
    )
    takes_model(parser)
    parser.add_argument("prompt", nargs="?", default="", help="how the text begins")
    parser.add_argument(
        "--tokens", metavar="N", type=int, default=100, help="at most so many are added (100)"
    )
    parser.add_argument(
        "--temperature", metavar="T", type=float, default=0.8, help="0: the likeliest (0.8)"
    )
    parser.add_argument(
        "--top-p",
        metavar="P",
        type=float,
        default=1.0,
        help="draw among the likeliest tokens that have this probability together (1)",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the draws (0)")
    parser.set_defaults(run=_generate, shows=True)


def takes_model(parser: argparse.ArgumentParser) -> None:
    """A run and an iteration, or a model's folder; and on what it is computed."""
    parser.add_argument(
        "model",
        metavar="RUN|FOLDER",
        type=Path,
        help="the folder of a run or a model, or a model's name in the Hub cache",
    )
    takes_state(parser)
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="a folder or file, or a name in the Hub cache, if the run or folder has none",
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="cpu or cuda:N (default: cuda:0, if there is one)"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, help="that compute (default: as many as torch takes)"
    )
    takes_allow(parser)


def opened(arguments: argparse.Namespace, words: Sequence[str] = ()) -> LanguageModel:
    """The model that ``takes_model`` was given; ``words``: where its run's data are. Raises
    BadInput."""
    from checkfree.session.language_model import open_model

    model = open_model(
        arguments.model,
        arguments.at,
        arguments.allow,
        words=words,
        tokenizer=arguments.tokenizer,
        device=arguments.device,
    )
    if told := render_unread(model.unread):
        print(f"checkfree: {told}", file=sys.stderr)
    return model


def _generate(arguments: argparse.Namespace) -> int:
    from checkfree.session.generate import continued
    from checkfree.session.language_model import computing

    prompt = os.fsencode(arguments.prompt)
    with computing(arguments.threads):
        model = opened(arguments)
        pieces = continued(
            model,
            prompt,
            tokens=arguments.tokens,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            seed=arguments.seed,
        )
        _show(prompt.decode("utf-8", "replace"))
        try:
            for piece in pieces:
                _show(piece)
                if getattr(sys.stdout, "lost", None) is not None:
                    break  # nobody reads on
        finally:
            _show("\n")
    return DONE


def _show(text: str) -> None:
    """A terminal gets nothing that it would obey: what a model says may be anything."""
    if sys.stdout.isatty():
        text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    print(text, end="", flush=True)
