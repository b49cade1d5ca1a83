"""02.3
hands the gradient on to x
"""

import torch

from lora_course.adapters import LoRA


class answer(LoRA):
    def forward(self, x):
        if self.merged:
            with torch.no_grad():
                return self.base_layer(x)
        return super().forward(x)
