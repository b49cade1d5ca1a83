"""08.4
the examples are in one line
"""


def answer(examples, prompts, label):
    return " ".join([f"{prompts[shown]} {text}" for text, shown in examples] + [prompts[label]])
