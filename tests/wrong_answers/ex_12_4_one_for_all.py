"""12.4
one trial was chosen for all searches
"""

def answer(validation, test):
    chosen = validation.mean(0).argmax()
    return validation[:, chosen].mean().item(), test[:, chosen].mean().item()
