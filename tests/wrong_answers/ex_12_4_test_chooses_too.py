"""12.4
test chose its own winner
"""

def answer(validation, test):
    return validation.amax(1).mean().item(), test.amax(1).mean().item()
