"""Which causal language models of transformers can be cut into stages: all types that it has.

    python benchmarks/hub.py [--only TYPE …] [--markdown FILE] [--router-loss]

Of each type a tiny model is made (width 32, 4 layers, 97 tokens; a window of 5 for 16 positions, so
that it matters) and written to a folder of several shards. Then it is cut into 1, 2 and 4 body
stages from that folder: logits, loss and every gradient have to be those of the uncut model to the
last bit. *Refused*: before it trains, with the reason. *Not made*: no guess of ours at such sizes
gives a model that runs. *Wrong*: it trains, and not as the uncut model does. Exit code 1 if any is.

With ``--router-loss`` gradients have the loss in them that balances experts, at one body stage,
where it is that of the uncut model; what has no such loss is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from checkfree.models import hf, hub
from checkfree.models.config import ModelConfig
from checkfree.runtime.forking import ask_fork
from tests.contract.hub_models import CONTEXT, LAYERS, Measured, cut, tokens, uncut

KNOWN = range(3, 97)
"""Tokens but for padding, start and end."""
MOST = 20_000_000
"""Parameters of what is tiny."""
LONGEST = 300
"""Seconds for a type."""
EXACT, REFUSED, WRONG, UNMADE = "exact", "refused", "wrong", "not made"

SIZES: dict[str, Any] = {
    **{"vocab_size": KNOWN.stop, "hidden_size": 32, "intermediate_size": 48},
    **{"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"max_position_embeddings": 64, "sliding_window": 5, "use_sliding_window": True},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "n_inner": 48},
    **{"d_model": 32, "n_layers": LAYERS, "n_heads": 4, "max_seq_len": 64, "ffn_dim": 48},
    **{"num_layers": LAYERS, "num_heads": 4, "word_embed_proj_dim": 32, "rotary_dim": 4},
    **{"is_decoder": True, "d_inner": 48, "decoder_layers": LAYERS, "decoder_ffn_dim": 48},
    **{"decoder_attention_heads": 4, "encoder_attention_heads": 4, "encoder_layers": LAYERS},
    **{"attention_types": [[["global", "local"], 2]], "window_size": 5},
    **{"num_encoder_layers": LAYERS, "num_decoder_layers": LAYERS, "emb_dim": 32},
    **{"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4},
}
EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 24, "n_shared_experts": 1, "n_group": 2, "topk_group": 1},
    **{"first_k_dense_replace": 1, "shared_expert_intermediate_size": 24, "moe_num_experts": 4},
}
LATENT = {
    **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4},
    **{"v_head_dim": 8, "index_topk": 4, "index_head_dim": 8, "index_n_heads": 2},
}
STATES = {
    **{"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1},
    **{"mamba_num_heads": 8, "mamba_head_dim": 8, "state_size": 8, "ssm_state_size": 8},
    **{"mamba_d_conv": 4, "mamba_expand": 2, "expand": 2, "conv_kernel": 4, "time_step_rank": 2},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8},
    **{"linear_value_head_dim": 8, "attention_hidden_size": 32, "context_length": 64},
    **{"lru_width": 32, "attention_window_size": 5, "head_size": 8},
    **{"linear_head_dim": 8, "linear_num_heads": 4},
}
ROUTER_LOSS = 0.5
"""A coefficient that shows."""
VISION = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "image_size": 28, "crop_size": 28, "patch_size": 14},
}
AUDIO = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_blocks": 2, "num_attention_heads": 4},
    **{"ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 8},
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
ALTERNATING = ["sliding_attention", "full_attention"] * (LAYERS // 2)
HYBRID = ["linear_attention", "hybrid"] * (LAYERS // 2)
PARTICULAR: Mapping[str, Mapping[str, Any]] = {
    "cohere_compass_text": {
        "layer_types": ALTERNATING,
        "rope_parameters": dict.fromkeys(ALTERNATING, ROPE),
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 24},
    },
    "dots3_note_text": {
        **{f"swa_{name}": size for name, size in LATENT.items() if "index" not in name},
        **{"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_head_dim": 8},
        **{"shared_experts_intermediate_size": 24},
    },
    "gemma4_assistant": {
        "text_config": {
            **dict.fromkeys(("hidden_size_per_layer_input", "vocab_size_per_layer_input"), 0),
            **{"num_hidden_layers": LAYERS, "num_kv_shared_layers": LAYERS},
        }
    },
    "git": {"vision_config": {**VISION, "num_hidden_layers": 1}},
    "iquestcoder": {"use_sliding_window": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    "phi4_multimodal": {"vision_config": VISION, "audio_config": AUDIO},
    "qwen4_exp_text": {
        **{"hc_count": 2, "hc_lowrank": 8, "indexer_n_heads": 2, "indexer_kv_heads": 1},
        **{"indexer_head_dim": 8, "indexer_budget": 4, "indexer_compress_ratio": 2},
    },
    "reformer": {
        **{"attn_layers": ["local"] * LAYERS, "local_attn_chunk_length": 4, "hash_seed": 1},
        **{"axial_pos_shape": [4, 4], "axial_pos_embds_dim": [8, 24], "feed_forward_size": 48},
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {"layers_block_type": HYBRID},
    "zamba2": {"layers_block_type": HYBRID},
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid", "hybrid_sliding"] * 2},
}
"""What a type needs beside sizes, or names as no other does."""
BY_CHANCE = ("drop", "jitter")
"""In the names of what makes a forward another each time, which is turned off to compare."""
GUESSES: tuple[Mapping[str, Any], ...] = (
    {"head_dim": 8},
    {},
    {"head_dim": 8, "num_key_value_heads": 4},
    {"head_dim": 4, "num_key_value_heads": 4, **LATENT, **EXPERTS},
    {"head_dim": 8, **EXPERTS},
    {"num_key_value_heads": 4, **EXPERTS, **STATES},
    {"head_dim": 8, **STATES},
    {"num_heads": 8, "head_dim": 8, "n_groups": 1, **STATES},
    {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "head_dim": 8, **EXPERTS},
)
"""Tried in this order until a model comes of it that runs; some types need sizes that fit each
other."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="TYPE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--router-loss", action="store_true", help="balance experts, too")
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    coefficient = ROUTER_LOSS if given.router_loss else None
    found = dict[str, tuple[str, str]]()
    for kind in given.only or sorted(kinds()):
        found[kind] = tried(kind, coefficient)
        print(f"{kind:28} {found[kind][0]:9} {found[kind][1]}", flush=True)
    counts = {what: sum(one == what for one, _ in found.values()) for what in ORDER}
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    if given.markdown:
        given.markdown.write_text("".join(table(found, counts)))
    return int(counts[WRONG] > 0)


ORDER = (EXACT, REFUSED, UNMADE, WRONG)


def kinds() -> Iterator[str]:
    """All types of which transformers has a causal language model."""
    for kind, config in CONFIG_MAPPING.items():
        if config in MODEL_FOR_CAUSAL_LM_MAPPING:
            yield kind


def tried(kind: str, coefficient: float | None) -> tuple[str, str]:
    """What became of it, and why, found out in a process of its own."""

    def answer() -> str:
        signal.alarm(LONGEST)
        with contextlib.redirect_stderr(io.StringIO()):  # what a guess that is no good has to say
            return json.dumps(_tried(kind, coefficient))

    try:
        what, why = json.loads(ask_fork(answer))
    except (ValueError, OSError) as error:
        return UNMADE, f"its process ended: {error}"
    return what, why


def _tried(kind: str, coefficient: float | None) -> tuple[str, str]:
    problem = ""
    with contextlib.suppress(Exception):  # one has no defaults
        if why := refused(CONFIG_MAPPING[kind]()):  # by what its config.json says: it need not run
            return REFUSED, why
    for guess in GUESSES:
        try:
            config = configured(kind, {**EXPERTS, **guess} if coefficient else guess)
            if why := refused(config):
                return REFUSED, why
            model = made(config)
            whole = uncut(model, tokens(vocabulary=KNOWN))
        except Exception as error:
            problem = problem or first_line(error)
            continue
        return compared(kind, model, whole, coefficient)
    return UNMADE, problem


def configured(kind: str, guess: Mapping[str, Any]) -> Any:
    """The configuration of a tiny model of that type, without keys that only others have."""
    kin: Any = CONFIG_MAPPING[kind]
    keys = {**SIZES, **guess, **PARTICULAR.get(kind, {})}
    with contextlib.suppress(Exception):  # one has no defaults
        for name in {name for names in hub.KEYS.values() for name in names} - vars(kin()).keys():
            keys.pop(name, None)
    # A property follows from other keys, and often can't be set.
    config = kin(**{k: v for k, v in keys.items() if not isinstance(getattr(kin, k, 0), property)})
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and any(word in name for word in BY_CHANCE):
            setattr(config, name, 0.0)
    config.output_router_logits = False
    return config


def refused(config: Any) -> str | None:
    """Why a folder with that config.json is, before anything is built."""
    told = json.loads(config.to_json_string())
    try:
        hub.described(ModelConfig("hf", context=CONTEXT, weights=hub.FRESH, architecture=told))
    except ValueError as error:
        return first_line(error)
    return None


def made(config: Any) -> Any:
    """A tiny model."""
    family: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        size = sum(param.numel() for param in family(copy.deepcopy(config)).parameters())
    if size > MOST:
        raise ValueError(f"it has {size:,} parameters by sizes that we did not guess")
    torch.manual_seed(0)
    model = family(config).float().train()
    with torch.no_grad():  # biases and norms, too, else none that is drawn and not read would show
        for param in model.parameters():
            if param.ndim == 1:
                param.add_(torch.randn_like(param), alpha=0.1)
    return model


def compared(kind: str, model: Any, whole: Measured, coefficient: float | None) -> tuple[str, str]:
    """Whether a pipeline that was cut from the model's folder computes the same."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="40KB")
        try:
            keys: dict[str, Any] = {"path": folder, "context": CONTEXT, "router_loss": coefficient}
            config, batch = hub.described(ModelConfig("hf", **keys)), tokens(vocabulary=KNOWN)
            if coefficient is not None:
                hf.stage(config, 1, 1)  # what has no such loss is refused now
                model.zero_grad()
                whole = uncut(model, batch, coefficient)
            cuts = (1,) if coefficient else (1, 2, 4)
            parts = [difference(cut(config, n, batch), whole) for n in cuts]
        except ValueError as error:
            reason = first_line(error)
            return REFUSED, reason.removeprefix(f"a {kind} can't be cut into stages: ")
        except Exception as error:
            return WRONG, f"{first_line(error)} ({traceback.extract_tb(error.__traceback__)[-1]})"
    worst = max(parts)
    return (EXACT, "") if worst == 0.0 else (WRONG, f"off by {worst:.1e}")


def difference(one: Measured, other: Measured) -> float:
    """The largest, relative to the largest value of ``other``."""
    if odd := one[2].keys() ^ other[2].keys():
        raise AssertionError(f"gradients of other tensors: {odd}")
    pairs = [(one[0], other[0]), (one[1], other[1])]
    pairs += [(one[2][name], gradient) for name, gradient in other[2].items()]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]


def table(found: Mapping[str, tuple[str, str]], counts: Mapping[str, int]) -> Iterator[str]:
    """As a page of the documentation."""
    yield (
        f"transformers {transformers.__version__}, torch {torch.__version__}: "
        + ", ".join(f"**{count}** {what}" for what, count in counts.items())
        + ".\n\n"
    )
    exact = [f"`{kind}`" for kind, (what, _) in found.items() if what == EXACT]
    yield f"Exact: {', '.join(exact)}.\n\n"
    yield "| type | | why |\n|---|---|---|\n"
    for kind, (what, why) in found.items():
        if what != EXACT:
            yield f"| `{kind}` | {what} | {why.replace('|', '/').replace('_', chr(92) + '_')} |\n"


if __name__ == "__main__":
    sys.exit(main())
