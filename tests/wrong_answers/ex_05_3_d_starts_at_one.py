"""05.3
0.1 for each entry
"""

from torch import nn

from lora_course.adapters import VeRA


class answer(VeRA):
    def __init__(self, base_layer, config, pair):
        super().__init__(base_layer, config, pair)
        nn.init.ones_(self.vera_lambda_d)
