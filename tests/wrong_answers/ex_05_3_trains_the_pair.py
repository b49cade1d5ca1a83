"""05.3
a matrix is trained
"""

from torch import nn

from lora_course.adapters import VeRA


class answer(VeRA):
    def __init__(self, base_layer, config, pair):
        super().__init__(base_layer, config, pair)
        self.A = nn.Parameter(pair.A[:, : self.in_features].clone())
        self.B = nn.Parameter(pair.B[: self.out_features].clone())

    def slices(self):
        return self.A, self.B
