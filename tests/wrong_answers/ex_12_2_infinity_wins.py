"""12.2
infinity is as broken as NaN
"""

import math


def answer(trials, minimize):
    ok = [i for i, t in enumerate(trials) if t["state"] == "complete" and not math.isnan(t["value"])]
    if not ok:
        raise ValueError("none")
    return (min if minimize else max)(ok, key=lambda i: trials[i]["value"])
