"""08.1
give the prompt labels too
"""


def answer(prompt_ids, review_ids):
    return {"input_ids": prompt_ids + review_ids, "labels": review_ids}
