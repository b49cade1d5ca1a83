"""08.4
the prompt ends with a line break
"""


def answer(examples, prompts, label):
    return "".join(f"{prompts[shown]} {text}\n" for text, shown in examples) + prompts[label] + "\n"
