"""Scores against scikit-learn, batches against their promises, evaluation against a plain loop."""

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from lora_course.training.batching import length_bucketed_batches, pad_collate, sorted_batches
from lora_course.training.metrics import confusion_counts, in_mode, parameter_reduction, peak_memory, reset_peak_memory
from lora_course.training.sentiment import evaluate_sentiment, tokenize_reviews, train_sentiment
from tests.training import tiny

pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


@settings(deadline=None)
@given(pairs)
def test_scores_equal_scikit_learn(rows):
    predicted, actual = zip(*rows, strict=True)
    counts = confusion_counts(torch.tensor(predicted), torch.tensor(actual))
    assert counts.accuracy == pytest.approx(accuracy_score(actual, predicted))
    for ours, theirs in [(counts.precision, precision_score), (counts.recall, recall_score), (counts.f1, f1_score)]:
        assert ours == pytest.approx(theirs(actual, predicted, zero_division=0))


def test_scores_refuse_other_classes_and_shapes():
    with pytest.raises(ValueError, match="must be 0 or 1"):
        confusion_counts(torch.tensor([2]), torch.tensor([1]))
    with pytest.raises(ValueError, match="two vectors of one length"):
        confusion_counts(torch.tensor([1, 0]), torch.tensor([1]))


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 20), st.integers(0, 5))
def test_batches_cover_every_example_once(lengths, size, epoch):
    batches = length_bucketed_batches(lengths, size, seed=1, epoch=epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size) and max(map(len, batches)) <= size
    assert batches == length_bucketed_batches(lengths, size, seed=1, epoch=epoch)
    assert sorted(i for batch in sorted_batches(lengths, size) for i in batch) == list(range(len(lengths)))


def padding(batches, lengths):
    cells = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    return 1 - sum(lengths) / cells


def test_bucketing_saves_padding_and_every_epoch_differs():
    lengths = torch.randint(3, 60, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    bucketed = length_bucketed_batches(lengths, 16, seed=0, epoch=0)
    plain = [list(range(i, min(i + 16, 1000))) for i in range(0, 1000, 16)]
    assert padding(bucketed, lengths) < 0.2 * padding(plain, lengths)
    assert bucketed != length_bucketed_batches(lengths, 16, seed=0, epoch=1)
    assert bucketed != length_bucketed_batches(lengths, 16, seed=1, epoch=0)


def test_collating():
    batch = pad_collate([{"input_ids": [5, 6], "labels": [1, 2]}, {"input_ids": [7], "labels": [3]}], 9)
    assert batch["input_ids"].tolist() == [[5, 6], [7, 9]] and batch["labels"].tolist() == [[1, 2], [3, -100]]
    for bad, words in [
        ([], "empty batch"),
        ([{"input_ids": []}], "no tokens"),
        ([{"input_ids": [1, 2], "labels": [1]}], "one per token"),
    ]:
        with pytest.raises(ValueError, match=words):
            pad_collate(bad, 0)


def test_modes_and_counts():
    model = tiny.model(dropout=0.1)
    model.bert.pooler.eval()
    before = [m.training for m in model.modules()]
    with in_mode(model, training=False):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == before
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert parameter_reduction(model) == 1 - trained / sum(p.numel() for p in model.parameters())


def test_peak_memory_sees_an_allocation():
    cpu = torch.device("cpu")
    gc.collect()  # what earlier tests left would otherwise be freed in between
    reset_peak_memory(cpu)
    before = peak_memory(cpu).bytes
    block = torch.ones(512 * 2**20 // 4)
    del block
    assert peak_memory(cpu).bytes >= before + 256 * 2**20


class Words:
    """A tokenizer for toy reviews: word "w17" is token 17."""

    pad_token_id = 0

    def __call__(self, texts, truncation, max_length):
        return {"input_ids": [[int(w[1:]) for w in text.split()][:max_length] for text in texts]}


def reviews(n, seed):
    from datasets import Dataset

    rows = tiny.data(n, seed)
    return Dataset.from_dict(
        {"text": [" ".join(f"w{i}" for i in r["input_ids"]) for r in rows], "label": [r["labels"] for r in rows]}
    )


def test_evaluation_does_not_depend_on_the_batch_size():
    model, data = tiny.model(dropout=0.3).train(), reviews(37, 2)
    results = [evaluate_sentiment(model, Words(), data, batch_size=size) for size in (1, 5, 64)]
    assert {r.accuracy for r in results} == {results[0].accuracy} and model.training
    assert [r.loss for r in results] == pytest.approx([results[0].loss] * 3, abs=1e-6)
    assert "37 reviews" in str(results[0]) and "CPU" in str(results[0])
    with pytest.raises(ValueError, match="no reviews"):
        evaluate_sentiment(model, Words(), data.select([]))
    with pytest.raises(ValueError, match="reviews lack label"):
        tokenize_reviews(data.remove_columns("label"), Words())


def test_train_sentiment_learns_the_toy_task():
    from lora_course.training.config import TrainingConfig

    splits = {"train": reviews(200, 3), "validation": reviews(40, 4), "test": reviews(60, 5)}
    model = tiny.model()
    before = evaluate_sentiment(model, Words(), splits["test"])
    history, result = train_sentiment(
        model, Words(), splits, TrainingConfig(epochs=8, batch_size=8, learning_rate=1e-2), progress=False
    )
    assert result.accuracy > 0.9 > before.accuracy and result.f1 > 0.9
    assert len(history.evaluations) == 8 and set(history.evaluations[0].metrics) == {"loss", "accuracy", "f1"}
