"""12.2
a pruned trial's value is from half-way
"""

import math


def answer(trials, minimize):
    ok = [i for i, t in enumerate(trials) if t["state"] in ("complete", "pruned") and math.isfinite(t["value"])]
    if not ok:
        raise ValueError("none")
    return (min if minimize else max)(ok, key=lambda i: trials[i]["value"])
