"""05.4"""


def answer(shapes, rank):
    ins, outs = zip(*shapes, strict=True)
    return len(shapes) * rank + sum(outs), rank * max(ins) + rank * max(outs)
