"""02.3
not scaled at all
"""

from lora_course.adapters import LoRA


class answer(LoRA):
    def forward(self, x):
        if self.merged:
            return self.base_layer(x)
        return self.base_layer(x) + self.dropout(x) @ self.lora_A.T @ self.lora_B.T
