"""00.2
the score on the training set
"""


def answer(train_labels, test_labels):
    most = max(set(train_labels), key=train_labels.count)
    return train_labels.count(most) / len(train_labels)
