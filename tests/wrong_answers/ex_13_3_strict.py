"""13.3
of two that cost the same, the worse one is beaten; so is
"""


def answer(points):
    kept = [p for p in points if not any(q[1] < p[1] and q[2] > p[2] for q in points)]
    return [p[0] for p in sorted(kept, key=lambda p: p[1])]
