"""08.4
no space between prompt and text
"""


def answer(examples, prompts, label):
    return "\n".join([f"{prompts[shown]}{text}" for text, shown in examples] + [prompts[label]])
