"""11.5
you kept the ranks whose row and column are longest
"""


def answer(A, B, rank):
    keep = (A.norm(dim=1) * B.norm(dim=0)).argsort(descending=True)[:rank]
    return A[keep], B[:, keep]
