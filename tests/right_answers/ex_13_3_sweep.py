"""13.3"""


def answer(points):
    """From the cheapest on: who is better than all before is on it; equals of the last one too."""
    found, last = [], None
    for name, cost, quality in sorted(points, key=lambda p: (p[1], -p[2])):
        if last is None or quality > last[1] or (cost, quality) == last:
            found.append(name)
            last = cost, quality
    return found
