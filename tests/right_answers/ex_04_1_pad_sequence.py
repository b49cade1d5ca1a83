"""04.1"""

import torch
from torch.nn.utils.rnn import pad_sequence


def answer(examples, pad_token_id):
    """pad_sequence does the work, once for the ids and once for the mask."""
    rows = [torch.tensor(e["input_ids"]) for e in examples]
    return {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": torch.tensor([e["labels"] for e in examples]),
    }
