"""Well-known models as numbers: what their config files say, so that planning needs no download.

The class names are transformers'. Every config can be replaced by one of your own: `plan` takes any PretrainedConfig.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def _bert(layers: int, width: int, heads: int) -> tuple[str, dict[str, Any]]:
    return "BertConfig", {
        "vocab_size": 30522,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 512,
    }


def _gpt2(layers: int, width: int, heads: int, positions: int = 1024, **more: Any) -> tuple[str, dict[str, Any]]:
    numbers = {"vocab_size": 50257, "n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": positions}
    return "GPT2Config", numbers | more


def _llama(
    layers: int, width: int, inner: int, heads: int, kv_heads: int, vocabulary: int, **more: Any
) -> tuple[str, dict[str, Any]]:
    return "LlamaConfig", {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 8192,
    } | more


MODELS = {
    "minilm": _bert(6, 384, 12),
    "bert-base": _bert(12, 768, 12),
    "bert-large": _bert(24, 1024, 16),
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "gpt3-175b": _gpt2(96, 12288, 96, positions=2048, tie_word_embeddings=False),
    "smollm2-135m": _llama(30, 576, 1536, 9, 3, 49152, tie_word_embeddings=True),
    "llama-3.2-1b": _llama(16, 2048, 8192, 32, 8, 128256, tie_word_embeddings=True, head_dim=64),
    "llama-3.2-3b": _llama(28, 3072, 8192, 24, 8, 128256, tie_word_embeddings=True, head_dim=128),
    "llama-2-7b": _llama(32, 4096, 11008, 32, 32, 32000),
    "llama-2-13b": _llama(40, 5120, 13824, 40, 40, 32000),
    "llama-2-70b": _llama(80, 8192, 28672, 64, 8, 32000),
    "llama-3-8b": _llama(32, 4096, 14336, 32, 8, 128256),
    "llama-3-70b": _llama(80, 8192, 28672, 64, 8, 128256),
    "llama-65b": _llama(80, 8192, 22016, 64, 64, 32000),
    "mistral-7b": (
        "MistralConfig",
        _llama(32, 4096, 14336, 32, 8, 32000)[1] | {"sliding_window": 4096},
    ),
}


def known_config(name: str) -> PretrainedConfig:
    """The config of a model by its name here. Raises ValueError, listing the names, for another."""
    import transformers

    if name not in MODELS:
        raise ValueError(f"no config for {name!r} ships with the course; there are {', '.join(MODELS)}")
    kind, numbers = MODELS[name]
    return getattr(transformers, kind)(**numbers)
