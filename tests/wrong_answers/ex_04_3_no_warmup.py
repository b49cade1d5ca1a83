"""04.3
there is no warm-up
"""


def answer(step, total_steps, warmup_steps):
    return 1 - step / total_steps
