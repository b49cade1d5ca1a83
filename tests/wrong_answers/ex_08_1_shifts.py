"""08.1
you shifted the labels
"""


def answer(prompt_ids, review_ids):
    labels = [-100] * len(prompt_ids) + review_ids
    return {"input_ids": prompt_ids + review_ids, "labels": labels[1:] + [-100]}
