"""00.2
that is a percentage
"""


def answer(train_labels, test_labels):
    most = max(set(train_labels), key=train_labels.count)
    return 100 * test_labels.count(most) / len(test_labels)
