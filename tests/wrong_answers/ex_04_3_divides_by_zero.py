"""04.3
without warm-up there is nothing to divide by
"""


def answer(step, total_steps, warmup_steps):
    return min(step / warmup_steps, (total_steps - step) / (total_steps - warmup_steps))
