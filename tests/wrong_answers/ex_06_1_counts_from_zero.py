"""06.1
the first step has number 1
"""


def answer(p, grad, m, v, step, lr, betas=(0.9, 0.999), eps=1e-8):
    beta1, beta2 = betas
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad**2
    m_hat = m / (1 - beta1 ** (step - 1) + 1e-30)
    v_hat = v / (1 - beta2 ** (step - 1) + 1e-30)
    return p - lr * m_hat / (v_hat.sqrt() + eps), m, v
