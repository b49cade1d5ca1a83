"""08.4
the last line is missing
"""


def answer(examples, prompts, label):
    return "\n".join(f"{prompts[shown]} {text}" for text, shown in examples)
