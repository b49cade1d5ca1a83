"""Prompts with examples, and a judge that counts."""

import pytest
import torch
from torch import nn

from lora_course.training.steering import Judged, few_shot_prompt, first_line, judge_texts, wilson_interval

PROMPTS = ("Bad:", "Good:")


def test_few_shot_prompt():
    shots = [("dull .", 0), ("a joy .", 1)]
    assert few_shot_prompt(shots, PROMPTS, 1) == "Bad: dull .\nGood: a joy .\nGood:"
    assert few_shot_prompt([], PROMPTS, 0) == "Bad:"


@pytest.mark.parametrize(("text", "line"), [("\n  a b \nc", "a b"), (" a\n", "a"), ("", ""), (" \n ", "")])
def test_first_line(text, line):
    assert first_line(text) == line


@pytest.mark.parametrize(("hits", "n"), [(7, 10), (0, 5), (5, 5), (50, 60), (1, 1)])
def test_wilson_interval_ends_where_the_normal_test_stops_contradicting(hits, n):
    low, high = wilson_interval(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    for end in {low, high} - {0.0, 1.0}:
        assert (hits / n - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, abs=1e-12)
    assert (low == 0) == (hits == 0) and (high == 1) == (hits == n)


@pytest.mark.parametrize(("hits", "n"), [(3, 2), (-1, 2), (0, 0)])
def test_wilson_interval_refuses(hits, n):
    with pytest.raises(ValueError, match=f"{hits} of {n} is not a share"):
        wilson_interval(hits, n)


class Judge(nn.Module):
    """Calls positive what contains token 2."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask):
        positive = ((input_ids == 2) & (attention_mask == 1)).any(1).float()
        return type("Output", (), {"logits": torch.stack([1 - positive, positive], 1)})


class Words:
    pad_token_id = 2  # padding must not count

    def __call__(self, texts, truncation, max_length):
        return {"input_ids": [[1] + [2 if word == "joy" else 3 for word in text.split()] for text in texts]}


def test_judge_counts_what_is_as_meant():
    texts = ["a joy", "dull", "joy joy joy", "", "long and dull and long"]
    judged = judge_texts(Judge(), Words(), texts, [1, 1, 1, 0, 0])
    assert judged == Judged(hits=4, n=5)
    assert str(judged) == "4 of 5, 0.80 (95 %: 0.38 to 0.96)"
    assert judge_texts(Judge(), Words(), texts, [0, 1, 0, 1, 1]) == Judged(hits=0, n=5)


def test_judge_refuses():
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        judge_texts(Judge(), Words(), ["a", "b"], [1])
    with pytest.raises(ValueError, match="no reviews"):
        judge_texts(Judge(), Words(), [], [])
