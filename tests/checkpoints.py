"""Tiny random checkpoints of every mixture-of-experts architecture that transformers can shard by experts.

`make` writes what `save_pretrained` writes, so a checkpoint has the on-disk names of the original release,
rarely those of the modules. Weights are drawn wide enough for logits to be well apart and routing to vary.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from rios.dmoe.manifest import TensorRange

NAMED = (
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v3",
    "gpt_oss",
    "granitemoe",
    "phimoe",
    "ernie4_5_moe",
    "jamba",
)

# Every name that a configuration uses for a size, and the size it gets here.
_SIZES: dict[str, Any] = {
    "vocab_size": 112,
    "unpadded_vocab_size": 112,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "head_dim": 8,
    "swa_head_dim": 8,
    "intermediate_size": 48,
    "dense_intermediate_size": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 16,
    "shared_experts_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "max_position_embeddings": 256,
    "model_max_length": 256,
    "sliding_window": 16,
    "sliding_window_size": 16,
    "num_experts": 6,
    "num_local_experts": 6,
    "n_routed_experts": 6,
    "moe_num_experts": 6,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "top_k_experts": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "n_group": 1,
    "num_expert_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "o_lora_rank": 8,
    "o_groups": 2,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "index_topk": 16,
    "mamba_d_head": 8,
    "mamba_head_dim": 8,
    "mamba_n_heads": 8,
    "mamba_num_heads": 8,
    "mamba_d_state": 8,
    "ssm_state_size": 8,
    "mamba_dt_rank": 4,
    "mamba_chunk_size": 16,
    "chunk_size": 16,
    "n_groups": 2,
    "linear_num_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_head_dim": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "router_hidden_size": 16,
    "block_size": 16,
    "num_mtp_layers": 0,
    "num_nextn_predict_layers": 0,
    "gated_norm_rank": 4,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 112,
    "hc_lowrank": 8,
    "initializer_range": 0.2,
    "logit_scale": 1.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": None,
}

# What one architecture needs beyond the sizes: layers of each kind, or dimensions bound to each other.
_SPECIAL: dict[str, dict[str, Any]] = {
    "afmoe": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "beam": {"num_experts": 6, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    "cohere2_moe": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "deepseek_v4": {
        "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "head_dim": 16,
    },
    "dots1": {
        "n_shared_experts": 1,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "dots3_note_text": {
        "num_key_value_heads": 4,
        "head_dim": 16,
        "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "exaone_moe": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "flint": {"mlp_only_layers": [0]},
    "gemma4_text": {
        "enable_moe_block": True,
        "num_experts": 6,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
        "global_head_dim": 16,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "mamba_n_groups": 1,
    },
    "hy_v4": {"layer_types": ["indexed_attention", "indexed_attention", "indexed_attention"]},
    "inkling2_text": {"layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"]},
    "inkling_text": {
        "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"],
        "logits_mup_width_multiplier": 1.0,
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 1,
        "expert_layer_offset": 0,
    },
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "kolibri1": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "laguna": {"num_attention_heads_per_layer": [4, 4, 4]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "mimo_v2_flash": {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]},
    "qwen3_5_moe_text": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention", "linear_attention"],
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def config(model_type: str, **overrides: Any) -> transformers.PreTrainedConfig:
    """A tiny configuration of `model_type`."""
    config_class = CONFIG_MAPPING[model_type]
    with quiet():
        known = config_class().to_dict()
        values = {name: value for name, value in _SIZES.items() if name in known}
        if "kv_lora_rank" in known:  # latent attention has as many keys as queries
            values["num_key_value_heads"] = values["num_attention_heads"]
        return config_class(**values | _SPECIAL.get(model_type, {}) | overrides)


def model(model_type: str, *, seed: int = 0, **overrides: Any) -> transformers.PreTrainedModel:
    """The tiny model in float32: what `make` writes, so a reference that runs in one process."""
    small = config(model_type, **overrides)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = MODEL_FOR_CAUSAL_LM_MAPPING[type(small)](small).eval()
        _unsettle(made)
    return made


def make(
    model_type: str,
    directory: Path,
    *,
    dtype: str = "float32",
    seed: int = 0,
    max_shard_size: str = "1GB",
    **overrides: Any,
) -> Path:
    """Write a tiny random checkpoint of `model_type` into `directory` and return it.

    `overrides` are fields of the configuration; `max_shard_size` ("20KB") makes several files and an index.
    """
    made = model(model_type, seed=seed, **overrides).to(getattr(torch, dtype))
    with quiet():
        made.save_pretrained(directory, max_shard_size=max_shard_size)
    return directory


@functools.cache
def causal_architectures() -> tuple[str, ...]:
    """Model types whose causal language model has experts that transformers lets us replace.

    A configuration that only wraps a text configuration (`qwen3_5_moe`) is left out: the text one
    (`qwen3_5_moe_text`) stands for it.
    """
    return tuple(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if _has_hook(name))


def _has_hook(model_type: str) -> bool:
    config_class = CONFIG_MAPPING[model_type]
    configuration = Path(inspect.getfile(config_class))
    source = configuration.with_name(configuration.name.replace("configuration_", "modeling_"))
    if not source.exists() or "use_experts_implementation" not in source.read_text():  # spares 150 imports
        return False
    if "text_config" in config_class.sub_configs:
        return False
    small = config(model_type)
    with quiet(), torch.device("meta"):
        made = MODEL_FOR_CAUSAL_LM_MAPPING[type(small)](small)
    return any(hasattr(part, "_is_expert_parallel") for part in made.modules())


@torch.no_grad()
def _unsettle(made: nn.Module) -> None:
    """Move what starts as ones and zeros (norms, biases, routing corrections) and fill what starts
    empty: a value that is lost on the way must show."""
    for name, tensor in made.state_dict().items():
        if name.endswith("tid2eid"):  # deepseek_v4 routes its first layers by a table of token ids
            tensor.copy_(torch.rand(len(tensor), 6).argsort(dim=-1)[:, : tensor.shape[1]])
        if not tensor.is_floating_point():
            continue
        if not torch.isfinite(tensor).all() or tensor.abs().max() > 1e4:
            tensor.normal_(0.0, 0.2)
        if tensor.ndim == 1 or name.endswith(("bias", "correction")) or tensor.min() == tensor.max():
            tensor.add_(torch.randn_like(tensor), alpha=0.1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' advice about odd configurations, and without its progress bars."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


def flip(path: Path, part: TensorRange) -> None:
    """Change a bit of a tensor on disk, or change it back."""
    with (path / part.file).open("r+b") as file:
        file.seek(part.start)
        (byte,) = file.read(1)
        file.seek(part.start)
        file.write(bytes([byte ^ 1]))
