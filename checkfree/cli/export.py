"""``checkfree export``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from checkfree.cli.arguments import DONE, INTERRUPTED, Commands, takes_allow, takes_state


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser("export", help="give a run's model to other programs")
    parser.description = (
        "Write the weights of a run as a folder that transformers reads, and whatever else reads "
        "models of the Hugging Face Hub: config.json, safetensors in shards with their index, the "
        "tokenizer and a model card. One stage is in memory at a time."
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument(
        "--to", metavar="FOLDER", type=Path, required=True, help="a new folder, or an empty one"
    )
    takes_state(parser)
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16", "fp16"), help="of the weights (default: as trained)"
    )
    takes_allow(parser)
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from checkfree.session.export import export

    try:
        made = export(
            arguments.run_folder,
            to=arguments.to,
            at=arguments.at,
            dtype=arguments.dtype,
            allow=arguments.allow,
        )
    except KeyboardInterrupt:
        print(f"checkfree: interrupted; nothing is at {arguments.to}", file=sys.stderr)
        return INTERRUPTED
    if made.lacking:
        print(f"checkfree: no tokenizer is written: {made.lacking}", file=sys.stderr)
    print(
        f"{made.folder}: {made.parameters} parameters of iteration {made.iteration}, {made.dtype}, "
        f"in {made.shards} shards"
    )
    return DONE
