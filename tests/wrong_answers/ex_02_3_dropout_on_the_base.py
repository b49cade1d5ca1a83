"""02.3
dropout reaches the base layer too
"""

from lora_course.adapters import LoRA


class answer(LoRA):
    def forward(self, x):
        if self.merged:
            return self.base_layer(x)
        x = self.dropout(x)
        return self.base_layer(x) + x @ self.lora_A.T @ self.lora_B.T * self.scaling
