"""Text from a language model, by transformers' rules, and how fast it comes.

    generate           continue prompts: the likeliest token each time, or sampled, or beams; same seed, same text
    generation_speed   tokens a second with adapters beside the weights and merged into them, measured in turns
temperature and top_p belong to sampling and mean nothing to the other two: transformers warns, we refuse.
Prompts are padded on the left, so that what is generated follows the prompt and not its padding.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from lora_course.adapters.inject import adapters, merge, unmerge
from lora_course.device import describe_device
from lora_course.training.metrics import in_mode, synchronize

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generated:
    """texts: one continuation for each prompt, without it. tokens: how many are in them, end tokens counted."""

    texts: list[str]
    tokens: int
    seconds: float
    device: str

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def generation_config(
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    temperature: float | None = None,
    top_p: float | None = None,
    beams: int = 1,
) -> GenerationConfig:
    """How to choose tokens: sampled if temperature or top_p is given, by beams if there are several, else greedy.

    Every setting that a model brings along (its own temperature, a maximal length) is overruled.
    Raises ValueError for a setting out of its range, or for one of sampling together with beams.
    """
    from transformers import GenerationConfig

    sampling = temperature is not None or top_p is not None
    if sampling and beams > 1:
        raise ValueError(
            f"temperature and top_p sample, and beams={beams} looks for the likeliest text without sampling: choose one"
        )
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}; for the likeliest token, leave it out")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    for name, value in (("max_new_tokens", max_new_tokens), ("beams", beams)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        num_beams=beams,
        do_sample=sampling,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    if sampling:
        config.update(temperature=temperature or 1.0, top_p=top_p or 1.0, top_k=0)
    return config


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 40,
    seed: int = 0,
    temperature: float | None = None,
    top_p: float | None = None,
    beams: int = 1,
    batch_size: int = 32,
) -> Generated:
    """Continue each prompt in eval mode, until the end token or for max_new_tokens.

    temperature, top_p: sample; neither: greedy, or `beams` beams. seed: of the samples, which also depend on how the
    prompts fall into batches; the random numbers of the caller are left as they were, and so is the model's mode.
    Raises ValueError as `generation_config` and `pad_left` do.
    """
    config = generation_config(
        tokenizer, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, beams=beams
    )
    device, texts, tokens = model.device, [], 0
    generators = [device] if device.type == "cuda" else []
    began = perf_counter()
    with in_mode(model, training=False), own_settings(model, config), torch.random.fork_rng(devices=generators):
        torch.manual_seed(seed)
        for start in range(0, max(1, len(prompts)), batch_size):
            batch = pad_left(model, tokenizer, prompts[start : start + batch_size], max_new_tokens)
            new = model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :]  # (B, new)
            end = (new == tokenizer.eos_token_id).long()
            tokens += int((end.cumsum(1) - end == 0).sum())  # up to and with the first end token
            texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    synchronize(device)
    return Generated(texts, tokens, perf_counter() - began, describe_device(device))


def pad_left(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], new_tokens: int
) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask, (B, longest), padding before the tokens, on the model's device.

    Raises ValueError if there are no prompts, one has no tokens, or there is no room for new_tokens more.
    """
    if not prompts:
        raise ValueError("there are no prompts to continue")
    rows = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    if not min(map(len, rows)):
        raise ValueError("a prompt has no tokens: there is nothing to continue")
    longest, room = max(map(len, rows)), getattr(model.config, "max_position_embeddings", None)
    if room and longest + new_tokens > room:
        raise ValueError(
            f"a prompt of {longest} tokens and {new_tokens} new ones are more than the {room} that this model can read"
        )
    ids = [[tokenizer.pad_token_id] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }


@contextmanager
def own_settings(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Let `config` alone decide inside the block, not what came with the model."""
    before, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = before


@dataclass(frozen=True)
class GenerationSpeed:
    """Tokens a second, the median of `repeats` interleaved measurements; ratio: of each pair, then its median."""

    unmerged: float
    merged: float
    ratio: float
    repeats: int
    new_tokens: int
    batch: int
    model: str
    device: str

    def __str__(self) -> str:
        return (
            f"unmerged {self.unmerged:.1f} tokens/s, merged {self.merged:.1f} tokens/s: {self.ratio:.2f} times as fast "
            f"(batch of {self.batch}, {self.new_tokens} new tokens each, median of {self.repeats}), {self.model}, "
            f"{self.device}"
        )


@torch.no_grad()
def generation_speed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    new_tokens: int = 32,
    repeats: int = 5,
) -> GenerationSpeed:
    """Time greedy generation of exactly new_tokens for the prompts in one batch, unmerged and merged in turns.

    One untimed round warms both up. Afterwards the adapters are merged or not, as they were before; unmerging is
    exact to rounding. Raises ValueError if the model has no adapters, or some are merged and others not, or as
    `pad_left` does.
    """
    merged_before = {adapter.merged for adapter in adapters(model).values()}
    if len(merged_before) != 1:
        raise ValueError("the model has no adapters" if not merged_before else "some adapters are merged, others not")
    config = generation_config(tokenizer, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
    batch = pad_left(model, tokenizer, prompts, new_tokens)

    def rate() -> float:
        synchronize(model.device)
        began = perf_counter()
        model.generate(**batch, generation_config=config)
        synchronize(model.device)
        return len(prompts) * new_tokens / (perf_counter() - began)

    rates = []
    with in_mode(model, training=False), own_settings(model, config):
        for _ in range(repeats + 1):
            unmerge(model)
            apart = rate()
            merge(model)
            rates.append((apart, rate()))
    (merge if merged_before == {True} else unmerge)(model)
    unmerged, merged = zip(*rates[1:], strict=True)
    return GenerationSpeed(
        unmerged=statistics.median(unmerged),
        merged=statistics.median(merged),
        ratio=statistics.median(m / u for u, m in rates[1:]),
        repeats=repeats,
        new_tokens=new_tokens,
        batch=len(prompts),
        model=type(model).__name__,
        device=describe_device(model.device),
    )
