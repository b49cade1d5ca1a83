"""00.2"""

from collections import Counter


def answer(train_labels, test_labels):
    """Counters on both sides."""
    label = Counter(train_labels).most_common()[0][0]
    return Counter(test_labels)[label] / len(test_labels)
