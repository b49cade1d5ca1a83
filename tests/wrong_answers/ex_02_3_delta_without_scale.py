"""02.3
the scale is missing: delta_weight
"""

from lora_course.adapters import LoRA


class answer(LoRA):
    def delta_weight(self):
        return self.lora_B @ self.lora_A
