"""03.3"""


def answer(adapters, scaling):
    d = next(iter(adapters.values()))[0].shape[1]
    change = next(iter(adapters.values()))[0].new_zeros(d, 3, d)  # (in, part, out)
    for part, (A, B) in adapters.items():
        change[:, "qkv".index(part)] = scaling * A.T @ B.T
    return change.flatten(1)
