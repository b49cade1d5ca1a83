"""14.2
that divides by n
"""


def answer(validation, test):
    mean = test.mean()
    spread = (test - mean).square().mean().sqrt()
    return test[validation.argmax()].item(), mean.item(), spread.item()
