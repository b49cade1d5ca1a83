"""05.3
the two lengths are swapped
"""


from lora_course.adapters import VeRA


class answer(VeRA):
    def __init__(self, base_layer, config, pair):
        super().__init__(base_layer, config, pair)
        self.vera_lambda_b, self.vera_lambda_d = self.vera_lambda_d, self.vera_lambda_b
