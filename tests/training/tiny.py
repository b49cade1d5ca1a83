"""A tiny random BERT with LoRA, and a toy task that it can learn: which of two tokens occurs."""

import torch
from transformers import BertConfig, BertForSequenceClassification

from lora_course import AdapterConfig, inject
from lora_course.training.batching import pad_collate


def model(dropout=0.0, seed=0, labels=2):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        num_labels=labels,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    config = AdapterConfig(rank=4, alpha=8, trainable=["classifier"], dropout=dropout), config
    return inject(BertForSequenceClassification(config[1]), config[0])


def data(n=60, seed=1):
    g = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(n):
        length = int(torch.randint(4, 12, (1,), generator=g))
        ids = torch.randint(10, 40, (length,), generator=g)
        ids[int(torch.randint(length, (1,), generator=g))] = 2 + i % 2
        examples.append({"input_ids": ids.tolist(), "labels": i % 2})
    return examples


def collate(examples):
    return pad_collate(examples, 0)


def trained(m):
    return {name: p.detach().clone() for name, p in m.named_parameters() if p.requires_grad}
