"""05.3
return the base output alone
"""

from lora_course.adapters import VeRA


class answer(VeRA):
    def forward(self, x):
        A, B = self.slices()
        return self.base_layer(x) + self.vera_lambda_b * ((self.vera_lambda_d * (x @ A.T)) @ B.T)
