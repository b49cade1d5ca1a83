"""04.2"""

from sklearn.metrics import accuracy_score, f1_score


def answer(logits, labels):
    """scikit-learn."""
    predicted = logits.argmax(-1)
    return accuracy_score(labels, predicted), f1_score(labels, predicted, zero_division=0.0)
