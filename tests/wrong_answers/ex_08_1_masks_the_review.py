"""08.1
you grade the prompt and leave out the review
"""


def answer(prompt_ids, review_ids):
    return {"input_ids": prompt_ids + review_ids, "labels": prompt_ids + [-100] * len(review_ids)}
