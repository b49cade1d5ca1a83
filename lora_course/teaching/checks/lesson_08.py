"""Checks of lesson 08, text generation: the masked prompt, perplexity, one sampling step, a few-shot prompt."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal
from lora_course.teaching.exercises import exercise
from lora_course.training.generation import mask_prompt
from lora_course.training.steering import few_shot_prompt

VOCABULARY = 11


@exercise(
    "08.1",
    title="Ask, and grade only the answer",
    reference=mask_prompt,
    verified="the model reads prompt and review, and only the tokens of the review are targets, the first and the end "
    "token included",
    minutes=10,
    difficulty=1,
)
def check_mask(answer):
    for prompt, review in (([5, 8, 3], [9, 4, 4, 7, 2]), ([6], [3, 2]), ([4, 4, 1, 5, 9, 6], [8])):
        given = list(prompt), list(review)
        example = answer(*given)
        if not hasattr(example, "keys") or set(example.keys()) != {"input_ids", "labels"}:
            raise Wrong("an example is a dictionary", yours=example, expected="{'input_ids': [...], 'labels': [...]}")
        ids = prompt + review
        likely = diagnose(
            example["input_ids"],
            {
                "only the review is there: the model must read the prompt, or it cannot follow it": review,
                "the review comes first: the prompt must stand before it": review + prompt,
            },
        )
        expect_equal("input_ids are prompt, then review", _plain(example["input_ids"]), ids, likely)
        p, n = len(prompt), len(ids)
        labels = example["labels"]
        if hasattr(labels, "__len__") and len(labels) != n:
            raise Wrong(
                "there is one label for each token",
                yours=f"{len(labels)} labels",
                expected=f"{n} labels",
                likely="give the prompt labels too: -100, once for each of its tokens",
            )
        expected = [-100] * p + review
        mistakes = {
            "the prompt is a target too: the model would spend its training on learning to say your prompt": ids,
            "0 is a token of the vocabulary: what is not to be predicted is labelled -100": [0] * p + review,
            "-1 is not left out by the loss: what is not to be predicted is labelled -100": [-1] * p + review,
            "the wrong part is masked: you grade the prompt and leave out the review": prompt + [-100] * len(review),
            "you shifted the labels: the model does that itself, label i stands beside token i": [
                *([-100] * p + review)[1:],
                -100,
            ],
            "the first token of the review is masked: it is predicted from the last token of the prompt and counts": [
                *[-100] * (p + 1),
                *review[1:],
            ],
            "the end token is masked: a model that never learns it never stops": [*[-100] * p, *review[:-1], -100],
        }
        expect_equal(
            "labels are -100 on the prompt and the tokens themselves on the review",
            _plain(labels),
            expected,
            diagnose(labels, mistakes),
        )
        if given != (prompt, review):
            raise Wrong(
                "prompt and review stay as they were",
                yours="one of the two lists has changed",
                expected="unchanged lists",
                likely="the same prompt serves thousands of reviews: build a new list with +, do not extend this one",
            )


def _plain(values):
    return values if isinstance(values, list | Tensor) else list(values)


def perplexity(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    nats, tokens = 0.0, 0
    for logits, labels in batches:
        targets = labels[:, 1:]
        nats += F.cross_entropy(logits[:, :-1].mT, targets, reduction="sum").item()
        tokens += int((targets != -100).sum())
    return math.exp(nats / tokens)


@exercise(
    "08.2",
    title="Perplexity, every token once",
    reference=perplexity,
    verified="equal to scoring each token by hand, over batches of unequal size with masked prompts and padding",
    minutes=15,
    difficulty=2,
)
def check_perplexity(answer):
    batches = []
    for rows, width, prompt, confidence in ((2, 6, 2, 3.0), (3, 9, 4, 1.0), (1, 4, 1, 6.0)):
        labels = torch.randint(VOCABULARY, (rows, width))
        labels[:, :prompt] = -100
        labels[0, width - 1 :] = -100 if rows > 1 else labels[0, width - 1 :]
        logits = torch.randn(rows, width, VOCABULARY, dtype=torch.float64)
        logits[:, :-1] += confidence * F.one_hot(labels[:, 1:].clamp_min(0), VOCABULARY)
        batches.append((logits, labels))
    expected = perplexity(batches)
    pieces = [(logits[:, :-1].reshape(-1, VOCABULARY), labels[:, 1:].flatten()) for logits, labels in batches]
    nats = torch.stack([F.cross_entropy(x, y, reduction="sum") for x, y in pieces])
    counts = torch.tensor([int((y != -100).sum()) for _, y in pieces])
    cells = torch.tensor([len(y) for _, y in pieces])
    unshifted = [(x.reshape(-1, VOCABULARY), y.flatten()) for x, y in batches]
    clamped = torch.stack([F.cross_entropy(x, y.clamp_min(0), reduction="sum") for x, y in pieces])
    texts = [
        F.cross_entropy(x, y)
        for logits, labels in batches
        for x, y in zip(logits[:, :-1], labels[:, 1:], strict=True)
    ]
    yours = answer([(logits.clone(), labels.clone()) for logits, labels in batches])
    likely = diagnose(
        yours,
        {
            "that is the mean of the batches' losses: a batch of 3 tokens counts like one of 14. Add up nats and "
            "tokens, and divide once at the end": math.exp((nats / counts).mean()),
            "that is the mean of the batches' perplexities: average nats, over all tokens, then take exp": (
                nats / counts
            )
            .exp()
            .mean(),
            "that is a mean over texts: a short text counts as much as a long one": math.exp(torch.stack(texts).mean()),
            "nothing is shifted: logits at position i predict token i + 1": math.exp(
                sum(F.cross_entropy(x, y, reduction="sum") for x, y in unshifted)
                / sum(int((y != -100).sum()) for _, y in unshifted)
            ),
            "masked targets are in the divisor: count only labels that are not -100": math.exp(
                nats.sum() / cells.sum()
            ),
            "masked targets count as token 0: leave -100 out": math.exp(clamped.sum() / cells.sum()),
            "exp is missing: these are nats a token": nats.sum() / counts.sum(),
            "2 to the power of nats: cross_entropy is in nats, so it is e": 2 ** (nats.sum() / counts.sum()),
        },
    )
    expect_close("exp(nats of all batches / predicted tokens of all batches)", yours, expected, likely, atol=1e-6)
    again = iter([(logits.clone(), labels.clone()) for logits, labels in batches])
    expect_close(
        "batches may come one at a time, from a generator",
        answer(again),
        expected,
        "you go through the batches twice: a generator is empty the second time",
        atol=1e-6,
    )


def next_token_probabilities(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    probabilities = (logits / temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    before = ordered.cumsum(-1) - ordered  # the mass of all likelier tokens
    kept = ordered.masked_fill(before >= top_p, 0.0)
    kept = torch.zeros_like(probabilities).scatter(-1, order, kept)
    return kept / kept.sum(-1, keepdim=True)


def of_transformers(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """The same through transformers' own processors."""
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    scores = TemperatureLogitsWarper(float(temperature))(None, logits)
    return TopPLogitsWarper(float(top_p))(None, scores).softmax(-1)


@exercise(
    "08.3",
    title="One sampling step",
    reference=next_token_probabilities,
    verified="equal to transformers' temperature and top-p on batches, also where one token is enough or all stay",
    minutes=20,
    difficulty=3,
)
def check_sampling(answer):
    logits = torch.tensor([[2.0, -1.0, 0.5, 3.0, 0.0], [0.1, 0.4, 2.2, 1.3, -0.7]], dtype=torch.float64)
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.3), (1.0, 0.8), (1.6, 0.7), (0.6, 0.9), (0.3, 0.2)):
        expected = of_transformers(logits, temperature, top_p)
        given = logits.clone()
        yours = answer(given, temperature, top_p)
        cold, plain = (logits / temperature).softmax(-1), logits.softmax(-1)
        cut = expected > 0
        mistakes = {
            "that is for the temperature upside down: divide the logits by it": next_token_probabilities(
                logits, 1 / temperature, top_p
            ),
            "the temperature has no effect: divide the logits by it before the softmax": next_token_probabilities(
                logits, 1.0, top_p
            ),
            "nothing was cut off: drop the tokens outside the top p": cold,
            "what is left must sum to 1 again": cold * cut,
            "the top p is chosen before the temperature: transformers divides by the temperature first": _renormalised(
                cold * (next_token_probabilities(logits, 1.0, top_p) > 0)
            ),
            "the token that reaches top_p is dropped too: keep the smallest set that holds at least top_p": (
                _renormalised(cold * _strictly_inside(cold, top_p))
            ),
            "one token too many is kept: the set is complete as soon as it holds top_p": _renormalised(
                cold * _one_more(cold, top_p)
            ),
            "the probabilities are still in sorted order: scatter them back to their tokens": expected.sort(
                descending=True
            ).values,
            "you kept the least likely tokens: sort descending": _renormalised(cold * _least_likely(cold, top_p)),
            "these are logits: end with a softmax, or divide by the sum": logits / temperature,
        }
        if temperature != 1:
            mistakes["you divided the probabilities by the temperature: divide the logits"] = plain / temperature
        expect_close(
            f"probabilities at temperature {temperature:g}, top p {top_p:g}",
            yours,
            expected,
            diagnose(yours, mistakes),
            atol=1e-8,
        )
        if not torch.equal(given, logits):
            raise Wrong(
                "the logits stay as they were",
                yours="logits changed in place",
                expected="unchanged logits",
                likely="use logits / temperature, not logits /= temperature",
            )


def _renormalised(kept: Tensor) -> Tensor:
    return kept / kept.sum(-1, keepdim=True)


def _kept(probabilities: Tensor, rule, descending: bool = True) -> Tensor:
    ordered, order = probabilities.sort(descending=descending)
    return torch.zeros_like(probabilities).scatter(-1, order, rule(ordered, ordered.cumsum(-1)).to(probabilities))


def _strictly_inside(probabilities: Tensor, top_p: float) -> Tensor:
    return _kept(probabilities, lambda p, total: total <= top_p)


def _one_more(probabilities: Tensor, top_p: float) -> Tensor:
    return _kept(probabilities, lambda p, total: (total - p - torch.cat([p[:, :1] * 0, p[:, :-1]], 1)) < top_p)


def _least_likely(probabilities: Tensor, top_p: float) -> Tensor:
    return _kept(probabilities, lambda p, total: total - p < top_p, descending=False)


@exercise(
    "08.4",
    title="Teach by showing",
    reference=few_shot_prompt,
    verified="each example stands in one line with the prompt of its own label; the last line is the wanted prompt, "
    "open-ended and without a space",
    minutes=10,
    difficulty=1,
)
def check_few_shot(answer):
    prompts = ("Bad:", "So-so:", "Good:")
    for examples, label in (
        ([("a joy .", 2), ("dull .", 0), ("it is fine .", 1)], 0),
        ([("long , and longer .", 0), ("what a ride .", 2)], 2),
        ([], 1),
    ):
        given: Sequence[tuple[str, int]] = list(examples)
        yours = answer(given, prompts, label)
        if not isinstance(yours, str):
            raise Wrong("a prompt is one string", yours=yours, expected=repr(few_shot_prompt(examples, prompts, label)))
        lines = [f"{prompts[shown]} {text}" for text, shown in examples]
        right = few_shot_prompt(examples, prompts, label)
        mistakes = {
            "the last line ends with a space: in most vocabularies the space belongs to the next word, and after a "
            "lone one the model is lost": right + " ",
            "the prompt ends with a line break: the model would begin a new line instead of a review": right + "\n",
            "the last line is missing: end with the prompt of the wanted label": "\n".join(lines),
            "each example needs the prompt of its *own* label: here all say the wanted one": "\n".join(
                [*(f"{prompts[label]} {text}" for text, _ in examples), prompts[label]]
            ),
            "the order is changed: keep the examples as they are given": "\n".join([*lines[::-1], prompts[label]]),
            "the wanted prompt stands first: what comes last is what the model continues": "\n".join(
                [prompts[label], *lines]
            ),
            "the examples say nothing of their labels: put the prompt of its label before each": "\n".join(
                [*(text for text, _ in examples), prompts[label]]
            ),
            "the examples are in one line: a line break is how the model can tell where a review ends": " ".join(
                [*lines, prompts[label]]
            ),
            "there is no space between prompt and text": "\n".join(
                [*(f"{prompts[shown]}{text}" for text, shown in examples), prompts[label]]
            ),
        }
        likely = next((message for message, value in mistakes.items() if value == yours), None)
        expect_equal(f"the prompt for {len(examples)} examples and label {label}", yours, right, likely)
        if given != examples:
            raise Wrong(
                "the examples stay as they were",
                yours="the list of examples has changed",
                expected="an unchanged list",
                likely="the same examples serve every label: build a new list",
            )
