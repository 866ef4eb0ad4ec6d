"""One stage's module and optimizer: forward, backward, step, snapshot, restore, destroy.

It knows no pipeline: it is told which part of it runs, on what, and under which key to stash.
"""

from checkfree.stage.conditions import CPU, Conditions, Part, body_part, body_parts
from checkfree.stage.running import seeded
from checkfree.stage.stage import Key, Stage

__all__ = ["CPU", "Conditions", "Key", "Part", "Stage", "body_part", "body_parts", "seeded"]
