"""05.3
lambda_b is missing
"""

from lora_course.adapters import VeRA


class answer(VeRA):
    def delta_weight(self):
        A, B = self.slices()
        return (B * self.vera_lambda_d) @ A
