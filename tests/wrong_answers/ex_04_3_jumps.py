"""04.3
measure it from the end of the warm-up
"""


def answer(step, total_steps, warmup_steps):
    return step / warmup_steps if step < warmup_steps else 1 - step / total_steps
