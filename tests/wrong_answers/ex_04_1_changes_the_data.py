"""04.1
changes the data set itself
"""

import torch


def answer(examples, pad_token_id):
    longest = max(len(e["input_ids"]) for e in examples)
    ids, masks = [], []
    for e in examples:
        n = longest - len(e["input_ids"])
        masks.append([1] * len(e["input_ids"]) + [0] * n)
        e["input_ids"] += [pad_token_id] * n
        ids.append(e["input_ids"])
    labels = torch.tensor([e["labels"] for e in examples])
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks), "labels": labels}
