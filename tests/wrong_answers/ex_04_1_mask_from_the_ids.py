"""04.1
the mask follows the lengths
"""

import torch


def answer(examples, pad_token_id):
    longest = max(len(example["input_ids"]) for example in examples)
    rows = [row + [pad_token_id] * (longest - len(row)) for row in (example["input_ids"] for example in examples)]
    ids = torch.tensor(rows)
    labels = torch.tensor([example["labels"] for example in examples])
    return {"input_ids": ids, "attention_mask": (ids != pad_token_id).long(), "labels": labels}
