"""12.2
return the index of the trial
"""

import math


def answer(trials, minimize):
    ok = [t["value"] for t in trials if t["state"] == "complete" and math.isfinite(t["value"])]
    if not ok:
        raise ValueError("none")
    return min(ok) if minimize else max(ok)
