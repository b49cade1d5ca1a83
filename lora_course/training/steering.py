"""Can a prompt steer a language model? Prompts with examples in them, and a classifier as the judge.

    few_shot_prompt   labelled texts, then the prompt of the wanted label: teaching by showing, without training
    judge_texts       how many of the texts a sentiment classifier calls what they were meant to be
    wilson_interval   how far a share of n may be off
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from lora_course.training.sentiment import evaluate_sentiment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def few_shot_prompt(examples: Sequence[tuple[str, int]], prompts: Sequence[str], label: int) -> str:
    """One line for each (text, label): its prompt, a space, the text. Then the prompt of `label` alone, open-ended.

    The last line ends without a space: in a BPE vocabulary the space belongs to the word that comes next.
    """
    return "\n".join([*(f"{prompts[shown]} {text}" for text, shown in examples), prompts[label]])


def first_line(text: str) -> str:
    """The first line with something in it, without spaces around; "" if there is none. Models that were never told
    where a review ends go on to the next one."""
    return text.strip().split("\n")[0].strip()


def wilson_interval(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of shares that hits of n do not contradict: 95 % for z = 1.96 (Wilson 1927).

    Unlike share ± z standard errors it stays between 0 and 1, and is right for few texts and for shares near the ends.
    Raises ValueError unless 0 <= hits <= n and n >= 1.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} of {n} is not a share")
    share, extra = hits / n, z * z / n
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / n + extra / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Judged:
    """Of n texts, `hits` are what they were meant to be, says the judge."""

    hits: int
    n: int

    @property
    def share(self) -> float:
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, Wilson's."""
        return wilson_interval(self.hits, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits} of {self.n}, {self.share:.2f} (95 %: {low:.2f} to {high:.2f})"


def judge_texts(
    classifier: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], labels: Sequence[int]
) -> Judged:
    """Let a sentiment classifier decide whether each text has the label that it was written for.

    Raises ValueError if there are no texts, or not one label for each.
    """
    from datasets import Dataset

    if len(texts) != len(labels):
        raise ValueError(f"{len(texts)} texts and {len(labels)} labels: give one label for each text")
    meant = Dataset.from_dict({"text": list(texts), "label": list(labels)})
    result = evaluate_sentiment(classifier, tokenizer, meant)
    return Judged(hits=round(result.accuracy * result.n), n=result.n)
