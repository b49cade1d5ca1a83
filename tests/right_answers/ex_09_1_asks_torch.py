"""09.1"""

import torch


def answer(frozen, trained, base_bytes=4, optimizer="adamw"):
    """Takes a real step and adds up what is there."""
    p = torch.nn.Parameter(torch.ones(trained))
    p.grad = torch.ones(trained)
    kinds = {
        "sgd": lambda: torch.optim.SGD([p]),
        "momentum": lambda: torch.optim.SGD([p], momentum=0.9),
        "adamw": lambda: torch.optim.AdamW([p]),
    }
    stepper = kinds[optimizer]()
    stepper.step()
    state = sum(t.nbytes for t in stepper.state[p].values() if isinstance(t, torch.Tensor) and t.dim())
    return frozen * base_bytes + p.nbytes, p.grad.nbytes, state
