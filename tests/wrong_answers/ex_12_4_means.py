"""12.4
those are the means over all trials
"""

def answer(validation, test):
    return validation.mean().item(), test.mean().item()
