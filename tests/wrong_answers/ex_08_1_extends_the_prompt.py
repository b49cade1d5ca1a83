"""08.1
do not extend this one
"""


def answer(prompt_ids, review_ids):
    labels = [-100] * len(prompt_ids) + review_ids
    prompt_ids += review_ids
    return {"input_ids": prompt_ids, "labels": labels}
