"""04.1
pad on the right
"""

import torch


def answer(examples, pad_token_id):
    longest = max(len(e["input_ids"]) for e in examples)
    ids, masks = [], []
    for e in examples:
        n = longest - len(e["input_ids"])
        masks.append([0] * n + [1] * len(e["input_ids"]))
        ids.append([pad_token_id] * n + e["input_ids"])
    labels = torch.tensor([e["labels"] for e in examples])
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks), "labels": labels}
