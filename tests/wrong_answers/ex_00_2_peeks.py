"""00.2
that is peeking
"""


def answer(train_labels, test_labels):
    most = max(set(test_labels), key=test_labels.count)
    return test_labels.count(most) / len(test_labels)
