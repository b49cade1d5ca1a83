"""12.2
a bad trial is no 0
"""

import math


def answer(trials, minimize):
    def value(i):
        v = trials[i]["value"]
        return v if trials[i]["state"] == "complete" and math.isfinite(v) else 0.0

    if not any(value(i) for i in range(len(trials))):
        raise ValueError("none")
    positive = [i for i in range(len(trials)) if value(i) or not minimize]
    return (min if minimize else max)(positive, key=value)
