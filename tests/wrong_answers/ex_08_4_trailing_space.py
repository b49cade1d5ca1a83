"""08.4
the last line ends with a space
"""


def answer(examples, prompts, label):
    return "".join(f"{prompts[shown]} {text}\n" for text, shown in examples) + prompts[label] + " "
