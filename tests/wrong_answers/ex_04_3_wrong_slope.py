"""04.3
the wrong slope
"""


def answer(step, total_steps, warmup_steps):
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, 1 - (step - warmup_steps) / total_steps)
