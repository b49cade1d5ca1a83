"""05.3
x was detached on its way
"""

from lora_course.adapters import VeRA


class answer(VeRA):
    def forward(self, x):
        h = self.base_layer(x)
        if self.merged:
            return h
        A, B = self.pair.A[:, : self.in_features], self.pair.B[: self.out_features]
        return h + self.vera_lambda_b * ((self.vera_lambda_d * (x.detach() @ A.T)) @ B.T)
