"""04.3"""


def answer(step, total_steps, warmup_steps):
    """The lower of a rising and a falling line."""
    up = step / warmup_steps if warmup_steps else 1.0
    return min(up, (total_steps - step) / (total_steps - warmup_steps))
