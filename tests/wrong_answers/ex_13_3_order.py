"""13.3
the names are right, their order is not
"""


def answer(points):
    def beats(q, p):
        return q[1] <= p[1] and q[2] >= p[2] and q[1:] != p[1:]

    return [p[0] for p in points if not any(beats(q, p) for q in points)]
