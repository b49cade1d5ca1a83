"""04.4
only one piece is in memory
"""

import torch.nn.functional as F


def answer(model, inputs, targets, pieces):
    F.cross_entropy(model(inputs), targets).backward()
