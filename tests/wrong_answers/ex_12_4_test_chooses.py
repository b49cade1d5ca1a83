"""12.4
the test split chose the winner
"""

def answer(validation, test):
    chosen = test.argmax(1, keepdim=True)
    return validation.gather(1, chosen).mean().item(), test.gather(1, chosen).mean().item()
