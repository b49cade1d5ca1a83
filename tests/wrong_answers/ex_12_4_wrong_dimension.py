"""12.4
along the wrong dimension
"""

def answer(validation, test):
    chosen = validation.argmax(0, keepdim=True)
    return validation.gather(0, chosen).mean().item(), test.gather(0, chosen).mean().item()
