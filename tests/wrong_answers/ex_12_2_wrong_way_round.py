"""12.2
that is the best in the other direction
"""

import math


def answer(trials, minimize):
    ok = [i for i, t in enumerate(trials) if t["state"] == "complete" and math.isfinite(t["value"])]
    if not ok:
        raise ValueError("none")
    return (max if minimize else min)(ok, key=lambda i: trials[i]["value"])
