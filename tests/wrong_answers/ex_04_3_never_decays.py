"""04.3
it never decays
"""


def answer(step, total_steps, warmup_steps):
    return min(1.0, step / max(1, warmup_steps)) if warmup_steps else 1.0
