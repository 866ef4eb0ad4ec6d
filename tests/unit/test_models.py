"""What every family promises: cuts, weights, counts, errors, precision and dropout."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from checkfree.core.units import derive
from checkfree.models.config import ModelConfig
from checkfree.models.families import WRITTEN_HERE, family

SMALL = ModelConfig(width=24, heads=4, hidden=40, blocks=4, context=16, vocabulary=37)


@pytest.fixture(params=WRITTEN_HERE)
def small(request: pytest.FixtureRequest) -> ModelConfig:
    """A small model of each family."""
    return replace(SMALL, family=request.param)


def build(config: ModelConfig, stages: int = 2) -> list[Any]:
    torch.manual_seed(derive(0, "init"))
    found = family(config.family)
    return [found.stage(config, i, stages) for i in range(stages + 1)]


def count(config: ModelConfig, stages: int) -> int:
    """Parameters of all stages, built without memory."""
    with torch.device("meta"):
        modules = build(config, stages)
    return sum(param.numel() for module in modules for param in module.parameters())


def tokens(config: ModelConfig, length: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(derive(0, "tokens"))
    assert config.vocabulary is not None
    return torch.randint(config.vocabulary, (2, length), generator=generator)


def loss_of(stages: list[Any], batch: Tensor) -> Tensor:
    x = stages[0].embed(batch)
    for body in stages[1:]:
        x = body(x)
    loss: Tensor = stages[0].loss(x, batch)
    return loss


# --- cuts ----------------------------------------------------------------------------------------


def blocks_of(stages: list[Any]) -> list[nn.Module]:
    return [block for body in stages[1:] for block in body.blocks]


def test_every_cut_is_the_same_function(small: ModelConfig) -> None:
    whole = build(small, 1)
    expected = loss_of(whole, tokens(small))
    for stages in (2, 4):
        cut = build(small, stages)
        cut[0].load_state_dict(whole[0].state_dict())
        for block, source in zip(blocks_of(cut), blocks_of(whole), strict=True):
            block.load_state_dict(source.state_dict())
        assert torch.equal(loss_of(cut, tokens(small)), expected)


def test_body_stages_are_alike(small: ModelConfig) -> None:
    shapes = [{n: p.shape for n, p in body.named_parameters()} for body in build(small, 4)[1:]]
    assert all(other == shapes[0] for other in shapes)


def test_a_stage_has_no_state_but_its_parameters(small: ModelConfig) -> None:
    stages = build(small)
    loss_of(stages, tokens(small))
    for module in stages:
        assert list(module.buffers()) == []
        assert set(module.state_dict()) == {name for name, _ in module.named_parameters()}


def test_names_are_unique(small: ModelConfig) -> None:
    find = family(small.family).transformers_name
    names = [
        find(small, 2, i, name)
        for i, module in enumerate(build(small))
        for name, _ in module.named_parameters()
    ]
    assert len(names) == len(set(names))


def test_the_future_does_not_show(small: ModelConfig) -> None:
    edge, *bodies = build(small)
    batch = tokens(small)
    changed = batch.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 37
    logits = []
    for inputs in (batch, changed):
        x = edge.embed(inputs)
        for body in bodies:
            x = body(x)
        logits.append(edge.logits(x))
    assert torch.equal(logits[0][:, :5], logits[1][:, :5])
    assert not torch.equal(logits[0][:, 5:], logits[1][:, 5:])


def test_the_last_token_is_target_only(small: ModelConfig) -> None:
    edge = build(small)[0]
    batch = tokens(small)
    x = edge.embed(batch)
    assert x.shape == (2, 8, small.width)
    assert edge.logits(x).shape == (2, 8, small.vocabulary)
    changed = batch.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 37
    assert torch.equal(edge.embed(changed), x)
    assert edge.loss(x, changed) != edge.loss(x, batch)


def test_order_of_tokens_shows(small: ModelConfig) -> None:
    """Attention alone could not tell the order of what came before."""
    edge, *bodies = build(small)
    batch = tokens(small)
    swapped = batch.clone()
    swapped[:, [0, 1]] = batch[:, [1, 0]]
    last = []
    for inputs in (batch, swapped):
        x = edge.embed(inputs)
        for body in bodies:
            x = body(x)
        last.append(x[:, -1])
    assert (batch[:, 0] != batch[:, 1]).all()
    assert not torch.allclose(last[0], last[1], atol=1e-6)


# --- weights -------------------------------------------------------------------------------------


def test_weights_follow_the_seed(small: ModelConfig) -> None:
    for one, other in zip(build(small), build(small), strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


def test_weights_are_drawn_as_stated(small: ModelConfig) -> None:
    wide = replace(small, width=128, hidden=256, vocabulary=256, context=128)
    for module in build(wide):
        for name, param in module.named_parameters():
            if param.ndim == 1:
                assert (param == (1.0 if name.endswith("norm.weight") else 0.0)).all()
                continue
            scaled = wide.family == "gpt" and name.endswith(("output.weight", "down.weight"))
            expected = 0.02 / (2 * wide.blocks) ** 0.5 if scaled else 0.02
            assert param.std().item() == pytest.approx(expected, rel=0.05)
            assert abs(param.mean().item()) < 0.05 * expected


def test_a_tied_head_is_the_embedding(small: ModelConfig) -> None:
    tied = replace(small, tied=True)
    stages = build(tied)
    assert "head.weight" not in dict(stages[0].named_parameters())
    assert count(small, 2) - count(tied, 2) == 37 * 24
    hidden = stages[0].norm(stages[0].embed(tokens(tied)))
    expected = hidden @ stages[0].embedding.weight.T
    torch.testing.assert_close(stages[0].logits(stages[0].embed(tokens(tied))), expected)


# --- counts --------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(WRITTEN_HERE),
    head_width=st.sampled_from([2, 4, 6]),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    hidden=st.one_of(st.none(), st.integers(1, 20)),
    tied=st.booleans(),
)
def test_arithmetic_counts_what_is_built(
    name: str, head_width: int, kv_heads: int, group: int, hidden: int | None, tied: bool
) -> None:
    heads = kv_heads * group
    config = ModelConfig(
        name,
        width=heads * head_width,
        heads=heads,
        kv_heads=kv_heads if name == "llama" else None,
        hidden=hidden,
        blocks=6,
        context=11,
        vocabulary=13,
        tied=tied,
    )
    assert {count(config, stages) for stages in (1, 2, 3, 6)} == {
        family(name).parameters_of(config)
    }


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "stages", "complaint"),
    [
        ({"vocabulary": None}, 2, "model.vocabulary is None"),
        ({"vocabulary": 0}, 2, "model.vocabulary is 0"),
        ({"blocks": 0}, 1, "model.blocks is 0"),
        ({"width": -8}, 1, "model.width is -8"),
        ({"hidden": 0}, 1, "model.hidden is 0"),
        ({"heads": 5}, 2, "model.heads is 5, which does not divide model.width 24"),
        ({"dropout": 1.0}, 2, "model.dropout is 1.0"),
        ({}, 3, "stages is 3, which does not cut model.blocks 4 .* among 1, 2, 4,"),
        ({}, 8, "stages is 8, which does not cut"),
        ({}, 0, "stages is 0, which does not cut"),
        ({"kv_heads": 3}, 2, "model.kv_heads is 3"),
    ],
)
def test_what_cannot_be_built(
    small: ModelConfig, change: dict[str, Any], stages: int, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        family(small.family).stage(replace(small, **change), 0, stages)
    assert "\n" not in str(caught.value) and ": " in str(caught.value)


@pytest.mark.parametrize("i", [-1, 3])
def test_no_such_stage(small: ModelConfig, i: int) -> None:
    with pytest.raises(ValueError, match=f"no stage {i}, expected one of 0 … 2"):
        family(small.family).stage(small, i, 2)


def test_counting_needs_a_vocabulary(small: ModelConfig) -> None:
    with pytest.raises(ValueError, match=r"model\.vocabulary is None"):
        family(small.family).parameters_of(replace(small, vocabulary=None))


def test_rotary_positions_turn_pairs() -> None:
    with pytest.raises(ValueError, match="3 features a head, expected an even number"):
        family("llama").stage(replace(SMALL, width=12), 1, 2)
    assert family("gpt").stage(replace(SMALL, family="gpt", width=12), 1, 2)


def test_gpt_groups_no_queries() -> None:
    with pytest.raises(ValueError, match=r"model\.kv_heads is 2, expected none for gpt"):
        family("gpt").stage(replace(SMALL, kv_heads=2), 1, 2)


def test_unknown_families_and_names(small: ModelConfig) -> None:
    with pytest.raises(ValueError, match=r"model\.family is 'bert', expected one of llama, gpt"):
        family("bert")
    with pytest.raises(ValueError, match=r"no parameter is called 'tail\.weight'"):
        family(small.family).transformers_name(small, 2, 1, "tail.weight")


# --- precision and dropout -----------------------------------------------------------------------


def test_float64_stays_float64(small: ModelConfig) -> None:
    stages, batch = build(small), tokens(small)
    single = loss_of(stages, batch)
    double = loss_of([module.double() for module in stages], batch)
    assert double.dtype == torch.float64
    assert double.item() == pytest.approx(single.item(), rel=1e-6)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, kv_heads=2)], ids=["all", "grouped"])
def test_gradients_are_right_in_float64(config: ModelConfig) -> None:
    """A norm or a table that went through fp32 would fail this."""
    body = build(config, 4)[1].double()
    generator = torch.Generator().manual_seed(derive(0, "input"))
    x = torch.randn(1, 3, config.width, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(body, x.requires_grad_())


def test_bf16_autocast_trains(small: ModelConfig) -> None:
    stages, batch = build(small), tokens(small)
    expected = loss_of(stages, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(stages, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    for module in stages:
        for param in module.parameters():
            assert param.dtype == torch.float32
            assert param.grad is not None and bool(param.grad.isfinite().all())


def test_autocast_keeps_activations_in_fp32(small: ModelConfig) -> None:
    """What travels between stages loses nothing to autocast."""
    edge, body, _ = build(small)
    with torch.autocast("cpu", torch.bfloat16):
        x = edge.embed(tokens(small))
        assert x.dtype == body(x).dtype == torch.float32


def test_norms_compute_in_fp32() -> None:
    generator = torch.Generator().manual_seed(derive(0, "input"))
    x = torch.randn(64, 24, generator=generator).bfloat16()
    norm = build(SMALL)[0].norm
    assert torch.equal(norm.bfloat16()(x), norm.float()(x.float()).bfloat16())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_rotary_tables_are_exact_enough(dtype: torch.dtype, expected: torch.dtype) -> None:
    body = build(SMALL)[1].to(dtype)
    seen: list[torch.dtype] = []
    block = body.blocks[0]
    block.register_forward_pre_hook(lambda _, inputs: seen.extend(t.dtype for t in inputs[1]))
    assert body(torch.zeros(1, 3, 24, dtype=dtype)).dtype == dtype
    assert seen == [expected, expected]


def test_all_in_bf16(small: ModelConfig) -> None:
    stages = [module.bfloat16() for module in build(small)]
    x = stages[1](stages[0].embed(tokens(small)))
    assert x.dtype == torch.bfloat16
    assert stages[0].loss(x, tokens(small)).dtype == torch.float32


def test_tables_made_in_inference_mode_serve_training(small: ModelConfig) -> None:
    stages, batch = build(small), tokens(small, 14)  # a length that no other test uses
    with torch.inference_mode():
        expected = loss_of(stages, batch)
    loss = loss_of(stages, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(loss, expected)


def test_runs_without_memory(small: ModelConfig) -> None:
    with torch.device("meta"):
        stages = build(small)
    loss = loss_of(stages, tokens(small).to("meta"))
    assert loss.is_meta and loss.shape == ()


def test_dropout_is_for_training(small: ModelConfig) -> None:
    batch = tokens(small)
    dropping, plain = build(replace(small, dropout=0.5)), build(small)
    for module in dropping:
        module.eval()
    assert torch.equal(loss_of(dropping, batch), loss_of(plain, batch))
    for module in dropping:
        module.train()
    x = plain[0].embed(batch)
    assert not torch.equal(dropping[0].embed(batch), x)
    assert not torch.equal(dropping[1](x), plain[1](x))


def test_dropout_follows_the_seed(small: ModelConfig) -> None:
    stages = build(replace(small, dropout=0.5))
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(loss_of(stages, tokens(small)).item())
    assert losses[0] == losses[1] != losses[2]


def test_finding_out_about_families_needs_no_torch() -> None:
    code = "import sys, checkfree.models.families; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
