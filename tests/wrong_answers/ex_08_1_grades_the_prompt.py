"""08.1
the prompt is a target too
"""


def answer(prompt_ids, review_ids):
    ids = prompt_ids + review_ids
    return {"input_ids": ids, "labels": list(ids)}
