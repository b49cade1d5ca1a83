"""08.4
the same examples serve every label
"""


def answer(examples, prompts, label):
    examples.append(("", label))
    return "\n".join(f"{prompts[shown]} {text}".rstrip() for text, shown in examples)
