"""06.1"""


def answer(p, grad, m, v, step, lr, betas=(0.9, 0.999), eps=1e-8):
    """In place, with the corrections moved into the step size, as torch does it."""
    m.lerp_(grad, 1 - betas[0])
    v.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    length = v.sqrt() / (1 - betas[1] ** step) ** 0.5 + eps
    return p.addcdiv_(m, length, value=-lr / (1 - betas[0] ** step)), m, v
