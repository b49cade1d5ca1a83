"""08.3
nothing was cut off
"""


def answer(logits, temperature, top_p):
    return (logits / temperature).softmax(-1)
