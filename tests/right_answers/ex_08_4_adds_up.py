"""08.4"""


def answer(examples, prompts, label):
    """Adds to one string."""
    shown = ""
    for text, its_label in examples:
        shown += prompts[its_label] + " " + text + "\n"
    return shown + prompts[label]
