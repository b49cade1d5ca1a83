"""02.3"""

import math

from torch import nn

from lora_course.adapters.base import Adapter


class answer(Adapter):
    """Slow, but right: the whole B A is built on each call."""

    def __init__(self, base_layer, config):
        super().__init__(base_layer, config)
        self.lora_A = self.new_parameter(config.rank, self.in_features)
        self.lora_B = self.new_parameter(self.out_features, config.rank)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def delta_weight(self):
        return self.config.scaling * self.lora_B @ self.lora_A

    def forward(self, x):
        if self.merged:
            return self.base_layer(x)
        return self.base_layer(x) + self.dropout(x) @ self.delta_weight().T
