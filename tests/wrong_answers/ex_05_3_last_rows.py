"""05.3
not the last
"""

from lora_course.adapters import VeRA


class answer(VeRA):
    def slices(self):
        return self.pair.A[:, -self.in_features :], self.pair.B[-self.out_features :]
