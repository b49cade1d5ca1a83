"""00.2
labels need not be 0 and 1
"""


def answer(train_labels, test_labels):
    label = round(sum(train_labels) / len(train_labels))
    return sum(y == label for y in test_labels) / len(test_labels)
