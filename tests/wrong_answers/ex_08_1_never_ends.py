"""08.1
the end token is masked
"""


def answer(prompt_ids, review_ids):
    labels = [-100] * len(prompt_ids) + review_ids[:-1] + [-100]
    return {"input_ids": prompt_ids + review_ids, "labels": labels}
