"""08.4
each example needs the prompt of its *own* label
"""


def answer(examples, prompts, label):
    return "\n".join([f"{prompts[label]} {text}" for text, _ in examples] + [prompts[label]])
