"""13.3
below the straight line between two others
"""


def answer(points):
    def beats(q, p):
        return q[1] <= p[1] and q[2] >= p[2] and q[1:] != p[1:]

    kept = sorted((p for p in points if not any(beats(q, p) for q in points)), key=lambda p: p[1])
    hull = []
    for p in kept:
        while len(hull) > 1 and _below(*hull[-2:], p):
            hull.pop()
        hull.append(p)
    return [p[0] for p in hull]


def _below(a, b, c):
    return (b[2] - a[2]) * (c[1] - a[1]) < (c[2] - a[2]) * (b[1] - a[1])
