"""02.3
return the base output alone
"""

from lora_course.adapters import LoRA


class answer(LoRA):
    def forward(self, x):
        return self.base_layer(x) + self.dropout(x) @ self.lora_A.T @ self.lora_B.T * self.scaling
