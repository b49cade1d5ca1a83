"""05.3
lambda_d is missing
"""

from lora_course.adapters import VeRA


class answer(VeRA):
    def forward(self, x):
        A, B = self.slices()
        h = self.base_layer(x)
        return h if self.merged else h + self.vera_lambda_b * (x @ A.T @ B.T)
