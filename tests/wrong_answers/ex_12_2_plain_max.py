"""12.2
never beaten
"""

def answer(trials, minimize):
    done = [i for i, trial in enumerate(trials) if trial["state"] == "complete"]
    if not any(trials[i]["value"] == trials[i]["value"] for i in done):
        raise ValueError("none")
    return (min if minimize else max)(done, key=lambda i: trials[i]["value"])
