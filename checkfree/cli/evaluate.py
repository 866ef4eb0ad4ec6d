"""``checkfree evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from checkfree.cli.arguments import DONE, Commands
from checkfree.cli.bars import Bars
from checkfree.cli.generate import opened, takes_model


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("evaluate", help="a trained model's loss and perplexity on a text")
    parser.description = (
        "Measure the model of a run, or of a folder as the Hugging Face Hub has them: loss in nats "
        "a token, perplexity, and bits per byte, which compare models of other tokenizers. A run "
        "is measured on all of its validation text unless another one is given."
    )
    takes_model(parser)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="where the run's data are now, as data.path=/mnt/texts",
    )
    parser.add_argument(
        "--text", metavar="PATH", type=Path, help="a file of text, or a folder of such files"
    )
    parser.add_argument(
        "--context",
        metavar="N",
        type=int,
        help="tokens of a window, each seen without what came before (default: a run's, else at "
        "most 1024)",
    )
    parser.add_argument("--tokens", metavar="N", type=int, help="the first N alone (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.set_defaults(run=_evaluate, shows=True)


def _evaluate(arguments: argparse.Namespace) -> int:
    from checkfree.session.evaluate import evaluate
    from checkfree.session.language_model import computing

    quiet = arguments.quiet or not sys.stderr.isatty()
    with computing(arguments.threads), Bars(quiet) as bars:
        found = evaluate(
            opened(arguments, arguments.words),
            arguments.text,
            context=arguments.context,
            most=arguments.tokens,
            allow=arguments.allow,
            watch=lambda batches: bars.piece("evaluate", batches),
        )
    bits = found.bits_per_byte
    if arguments.json:
        figures = {
            "model": found.model,
            "text": found.text,
            "loss": found.loss,
            "perplexity": found.perplexity,
            "bits_per_byte": bits,
            "tokens": found.tokens,
            "bytes": found.bytes,
            "context": found.context,
        }
        print(json.dumps(figures, indent=1))
        return DONE
    told = "" if bits is None else f", {bits:.4f} bits a byte"
    print(f"{found.model}, on {found.text}:")
    print(f"loss {found.loss:.4f} nats a token, perplexity {found.perplexity:.2f}{told}")
    size = f", {found.bytes} bytes" if found.bytes else ""
    print(f"{found.tokens} tokens{size}, in windows of {found.context}")
    return DONE
