"""The seven sites of the paper's throughput experiment, as it measured them.

Source: arXiv 2506.15461 (v2), throughput experiment. Milliseconds one way, and GiB per second,
the same both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

GIB = 2**30

SITES = ("Australia", "Belgium", "Canada", "Germany", "Iowa", "Netherlands", "London")

SAME_SITE = (10.0, 0.5)

BETWEEN: Mapping[tuple[str, str], tuple[float, float]] = MappingProxyType(
    {
        ("Australia", "Belgium"): (129, 0.0098),
        ("Australia", "Canada"): (98, 0.0132),
        ("Australia", "Germany"): (125.5, 0.0105),
        ("Australia", "Iowa"): (84, 0.0112),
        ("Australia", "Netherlands"): (128, 0.0095),
        ("Australia", "London"): (132, 0.0094),
        ("Belgium", "Canada"): (41, 0.0199),
        ("Belgium", "Germany"): (4, 0.2425),
        ("Belgium", "Iowa"): (49, 0.0283),
        ("Belgium", "Netherlands"): (3, 0.2425),
        ("Belgium", "London"): (3.5, 0.2425),
        ("Canada", "Germany"): (44, 0.0319),
        ("Canada", "Iowa"): (14, 0.0757),
        ("Canada", "Netherlands"): (42, 0.0250),
        ("Canada", "London"): (38.5, 0.0364),
        ("Germany", "Iowa"): (53.5, 0.0266),
        ("Germany", "Netherlands"): (3.5, 0.2425),
        ("Germany", "London"): (6.6, 0.1888),
        ("Iowa", "Netherlands"): (51, 0.0274),
        ("Iowa", "London"): (48.1, 0.0219),
        ("Netherlands", "London"): (4.8, 0.0237),
    }
)

SECONDS_PER_SAMPLE_AND_BLOCK = 0.055
SAMPLES, BLOCKS_PER_STAGE = 16, 4
ACTIVATION, STAGE = 32 * 2**20, 256 * 2**20
"""Bytes of one microbatch's activation, and of a stage's weights in fp32."""
EMBEDDING = 2 * 32_000 * 1024 * 4
"""Bytes of embedding and head of the 500M model, which the paper does not state."""
HEAD_BLOCKS = 2
"""Blocks that the head's 32,000 rows of 1,024 weigh as much as."""
CHECKPOINT_SECONDS = 3.0
"""That a checkpoint holds training up: 91.35 against 91.32 s an iteration, one in a hundred."""
