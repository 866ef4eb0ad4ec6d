"""The configurations that ship: their models build, and have as many parameters as they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkfree import configs
from checkfree.config.load import load
from checkfree.failures.paper import PER_ITERATION
from checkfree.models.config import ModelConfig
from checkfree.models.families import family

CONFIGS = Path(next(iter(configs.__path__)))
DEMO = ModelConfig("llama", width=96, heads=6, hidden=256, blocks=12, context=128, vocabulary=256)
COUNTS = {
    "paper/124m": 83_112_448,
    "paper/500m": 468_239_360,
    "paper/1.5b": 1_741_785_088,
    "paper/gpt-500m": 368_896_000,
}
"""Parameters of the published shapes; what the paper calls them is rounded, and generously."""


def count(config: ModelConfig, stages: int) -> int:
    """Parameters of all stages, built without memory."""
    found = family(config.family)
    with torch.device("meta"):
        modules = [found.stage(config, i, stages) for i in range(stages + 1)]
    return sum(param.numel() for module in modules for param in module.parameters())


def test_the_demo_has_1_378_656_parameters() -> None:
    assert family("llama").parameters_of(DEMO) == count(DEMO, 6) == 1_378_656


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_presets_build(path: Path) -> None:
    config = load(path)
    model = replace(config.model, vocabulary=config.model.vocabulary or 256)
    built = count(model, config.stages)
    assert built == family(model.family).parameters_of(model)
    name = path.relative_to(CONFIGS).with_suffix("").as_posix()
    if name in COUNTS:
        assert built == COUNTS[name]
        assert f"{built:,} parameters" in path.read_text()


def test_every_published_shape_has_a_preset() -> None:
    found = (CONFIGS / "paper").glob("*.yaml")
    assert {f"paper/{path.stem}" for path in found} == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_published_presets_fail_at_10_percent_an_hour(name: str) -> None:
    failures = load(CONFIGS / f"{name}.yaml").failures
    model = name.removeprefix("paper/").removeprefix("gpt-")
    assert failures.probability == PER_ITERATION[f"{model}/10%"]


@pytest.mark.parametrize(
    ("name", "sequences"),
    [("124m", 64 * 4 * 2), ("500m", 16 * 4 * 4), ("1.5b", 2 * 8 * 8), ("gpt-500m", 16 * 4 * 4)],
)
def test_published_presets_see_as_many_sequences(name: str, sequences: int) -> None:
    config = load(CONFIGS / f"paper/{name}.yaml")
    assert config.batch * config.microbatches == sequences
    assert config.microbatches % config.replicas == 0
