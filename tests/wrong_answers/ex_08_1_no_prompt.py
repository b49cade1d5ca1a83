"""08.1
the model must read the prompt
"""


def answer(prompt_ids, review_ids):
    return {"input_ids": review_ids, "labels": review_ids}
