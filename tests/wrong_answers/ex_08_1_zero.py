"""08.1
0 is a token of the vocabulary
"""


def answer(prompt_ids, review_ids):
    return {"input_ids": prompt_ids + review_ids, "labels": [0] * len(prompt_ids) + review_ids}
