"""13.3
two that are the same in both do not beat each other
"""


def answer(points):
    kept = [p for p in points if not any(q is not p and q[1] <= p[1] and q[2] >= p[2] for q in points)]
    return [p[0] for p in sorted(kept, key=lambda p: p[1])]
