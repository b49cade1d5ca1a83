"""Perplexity against the model's own loss, one text at a time; training lowers it."""

import math

import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close

from lora_course import AdapterConfig, inject
from lora_course.training.batching import pad_collate
from lora_course.training.config import TrainingConfig
from lora_course.training.generation import conditioned_examples, evaluate_language_model, tokenize_texts
from lora_course.training.loop import fit
from tests.adapters.models import VOCAB, build


class Characters:
    """A tokenizer of one token a character; 2 starts a text, 3 ends it."""

    pad_token_id, eos_token_id = 0, 3

    def __call__(self, texts, truncation=False, max_length=None, add_special_tokens=False):
        def ids(text):
            return [2] * add_special_tokens + [1 + ord(c) % (VOCAB - 1) for c in text][:max_length]

        return {"input_ids": ids(texts) if isinstance(texts, str) else [ids(text) for text in texts]}


class Starting(Characters):
    """One that puts a start token before a prompt, as Llama's does."""

    def __call__(self, texts, truncation=False, max_length=None, add_special_tokens=True):
        return super().__call__(texts, truncation, max_length, add_special_tokens)


TOKENIZER = Characters()
TEXTS = ["abcabcabcab", "zy", "what a film", "a", "it is long , and it is not dull"]


def own_losses(model, rows):
    """Nats summed over the predicted tokens, from the model's own mean loss of each text alone."""
    ids = [torch.tensor([row["input_ids"]]) for row in rows]
    with torch.no_grad():
        return [float(model(input_ids=i, labels=i).loss) * (i.shape[1] - 1) if i.shape[1] > 1 else 0.0 for i in ids]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_equals_the_models_own_loss_of_each_text(name, batch_size):
    model = build(name).train()
    result = evaluate_language_model(model, TOKENIZER, TEXTS, batch_size=batch_size, max_length=20)
    rows = tokenize_texts(TEXTS, TOKENIZER, max_length=20)
    nats = torch.tensor(own_losses(model.eval(), rows), dtype=torch.float64)
    assert_close(result.nats, nats, rtol=1e-5, atol=1e-5)
    assert result.tokens.tolist() == [10, 1, 10, 0, 19]
    assert result.loss == pytest.approx(float(nats.sum()) / 40, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.metrics() == {"loss": result.loss, "perplexity": result.perplexity}
    assert "on 5 texts, 40 predicted tokens" in repr(result)


def test_what_is_tokenized_already_and_a_prompt_that_does_not_count():
    model, rows = build("llama"), tokenize_texts(TEXTS, TOKENIZER, max_length=20)
    assert rows[1]["labels"] == rows[1]["input_ids"]
    whole = evaluate_language_model(model, TOKENIZER, TEXTS, max_length=20)
    assert torch.equal(evaluate_language_model(model, TOKENIZER, rows).nats, whole.nats)
    masked = rows.map(lambda row: {"labels": [-100] * 5 + row["labels"][5:]} if len(row["labels"]) > 5 else {})
    result = evaluate_language_model(model, TOKENIZER, masked)
    assert result.tokens.tolist() == [6, 1, 6, 0, 15]
    assert (result.nats[[0, 2, 4]] < whole.nats[[0, 2, 4]]).all() and result.nats[1] == whole.nats[1]


REVIEWS = Dataset.from_dict({"text": ["dull", "a joy", "long"], "label": [0, 1, 0]})
PROMPTS = ("Bad:", "Good:")


@pytest.mark.parametrize(("tokenizer", "start"), [(Characters(), []), (Starting(), [2])])
@pytest.mark.parametrize("end", [True, False])
def test_conditioned_examples(tokenizer, start, end):
    rows = conditioned_examples(REVIEWS, tokenizer, PROMPTS, end=end)
    for row, review in zip(rows, REVIEWS, strict=True):
        prompt = start + TOKENIZER(PROMPTS[review["label"]])["input_ids"]
        text = TOKENIZER(" " + review["text"])["input_ids"] + [3] * end
        assert row == {"input_ids": prompt + text, "labels": [-100] * len(prompt) + text}


def test_conditioned_examples_are_cut_without_an_end():
    rows = conditioned_examples(REVIEWS, TOKENIZER, PROMPTS, max_length=9)
    assert [len(row["input_ids"]) for row in rows] == [9, 9, 9]
    assert [row["input_ids"][-1] == 3 for row in rows] == [False] * 3


def test_only_the_text_of_a_conditioned_example_is_scored():
    model, rows = build("llama"), conditioned_examples(REVIEWS, TOKENIZER, PROMPTS, end=False)
    result = evaluate_language_model(model, TOKENIZER, rows)
    assert result.tokens.tolist() == [5, 6, 5]
    with torch.no_grad():
        for row, nats, n in zip(rows, result.nats, result.tokens, strict=True):
            log_p = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1)
            expected = -log_p.gather(1, torch.tensor(row["input_ids"][1:])[:, None])[-int(n) :].sum()
            assert float(nats) == pytest.approx(float(expected), rel=1e-5)


def test_conditioned_examples_joined_otherwise():
    rows = conditioned_examples(
        REVIEWS, TOKENIZER, PROMPTS, join=lambda prompt, text: {"input_ids": prompt + text, "labels": prompt + text}
    )
    assert rows["labels"] == rows["input_ids"]


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        (("Bad: ", "Good:"), {}, "ends with a space"),
        (("Bad:",), {}, "1 prompts, and none for label 1"),
        (PROMPTS, {"max_length": 5}, "a prompt of 5 tokens leaves no room"),
    ],
)
def test_conditioned_examples_refuse(prompts, options, words):
    with pytest.raises(ValueError, match=words):
        conditioned_examples(REVIEWS, TOKENIZER, prompts, **options)


def test_leaves_the_model_in_its_mode():
    model = build("llama").train()
    model.model.layers[0].eval()
    evaluate_language_model(model, TOKENIZER, TEXTS)
    assert model.training and not model.model.layers[0].training


@pytest.mark.parametrize("texts", [[], ["a", "b"]])
def test_nothing_to_predict(texts):
    with pytest.raises(ValueError, match=f"no token to predict in {len(texts)} texts"):
        evaluate_language_model(build("llama"), TOKENIZER, texts)


def test_training_on_texts_lowers_it():
    torch.manual_seed(0)
    model = inject(build("llama"), AdapterConfig(rank=4, alpha=8))
    texts = ["abcabcabcabc", "bcabcabcab", "cabcabcabcabca"] * 8
    before = evaluate_language_model(model, TOKENIZER, texts[:3])
    config = TrainingConfig(epochs=4, batch_size=4, learning_rate=2e-2)
    rows = tokenize_texts(texts, TOKENIZER)
    history = fit(model, rows, lambda batch: pad_collate(batch, 0), config, progress=False)
    after = evaluate_language_model(model, TOKENIZER, texts[:3])
    assert after.perplexity < 0.7 * before.perplexity
    assert after.loss == pytest.approx(history.steps[-1].loss, rel=0.3)
