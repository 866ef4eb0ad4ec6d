"""What may be another when a run goes on: where its data lie and its logs are written, on what it
computes, and what its stages keep in memory meanwhile. A run is its configuration, its code and
what its data hold; none of that changes with these."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from checkfree.config.check import check_data_keys
from checkfree.config.load import build, expand, flat, over, parse_words, to_tree
from checkfree.config.parts import permitted, running
from checkfree.core.config import Config
from checkfree.core.errors import BadInput
from checkfree.core.typed import written

WHERE = (
    *("data.path", "data.cache", "data.tokenizer"),
    *("model.path", "model.config", "recovery.log_path", "devices"),
    *("stash", "stash_path", "stash_room", "recompute"),
)
"""No number of a run depends on these, where its devices compute alike: what data, tokenizer and
pretrained weights hold is compared by their hashes, and config.json is in a run's own
configuration."""

PLACES = (*WHERE, "threads")
"""Other threads may add in another order (semantics 17): that is warned of."""

INIT_RUN = "init.run"
"""Where the state lay that a run began with. It has its own copy of it, and that is compared by its
hash, too."""


def moved(config: Config, words: Sequence[str]) -> Config:
    """The configuration of a run that goes on with ``key=value`` words, which name PLACES only.
    Raises BadInput for any other key, for a value that no run can take, and for a key that its data
    don't read."""
    tree = parse_words(words)
    for key, value in flat(tree):
        if key == "out" or key.startswith("out."):
            raise BadInput(
                f"out={written(value)}: a run goes on in its own folder; a new one begins from "
                "its state by checkfree train RUN/config.yaml init=RUN out=NEW"
            )
        if key not in PLACES:
            raise BadInput(
                f"{key}={written(value)}: a run that goes on takes {', '.join(PLACES)} only; with "
                f"anything else it is another run: checkfree train RUN/config.yaml init=RUN {key}=…"
                " out=NEW begins one from its state"
            )
    found = permitted(build(over(to_tree(config), expand(tree))), running(config))
    check_data_keys(found.data, tree.get("data", {}))
    return found


def moves(config: Config, was: Config, keys: Collection[str] = WHERE) -> list[str]:
    """The words that take a run which was configured so to these places of ``config``."""
    now, then = dict(flat(to_tree(config))), dict(flat(to_tree(was)))
    return [f"{key}={_word(now[key])}" for key in keys if now[key] != then[key]]


def _word(value: Any) -> str:
    """As the command line takes it: text as it is, but where that would be read as something
    else."""
    if not isinstance(value, str):
        return written(value)
    return json.dumps(value) if value == "null" or value[:1] in ("'", '"') else value


def placeless(tree: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """A configuration as plain data, flat, without what is compared by its hash, and without the
    keys and sections ``others``."""
    return {
        key: value
        for key, value in flat(tree)
        if key not in (*WHERE, INIT_RUN) and key.partition(".")[0] not in others
    }
