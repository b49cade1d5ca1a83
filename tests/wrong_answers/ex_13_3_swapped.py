"""13.3
you read cost and quality the wrong way round
"""


def answer(points):
    def beats(q, p):
        return q[1] >= p[1] and q[2] <= p[2] and q[1:] != p[1:]

    kept = [p for p in points if not any(beats(q, p) for q in points)]
    return [p[0] for p in sorted(kept, key=lambda p: p[1])]
