"""02.3
x was detached on its way into A
"""

from lora_course.adapters import LoRA


class answer(LoRA):
    def forward(self, x):
        if self.merged:
            return self.base_layer(x)
        return self.base_layer(x) + self.dropout(x.detach()) @ self.lora_A.T @ self.lora_B.T * self.scaling
