"""08.1
the first token of the review is masked
"""


def answer(prompt_ids, review_ids):
    labels = [-100] * (len(prompt_ids) + 1) + review_ids[1:]
    return {"input_ids": prompt_ids + review_ids, "labels": labels}
