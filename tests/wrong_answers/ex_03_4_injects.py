"""03.4
counting leaves the model as it was
"""

from lora_course import AdapterConfig, inject, parameter_report


def answer(model, suffixes, rank):
    inject(model, AdapterConfig(rank=rank, target_modules=suffixes))
    return parameter_report(model).trainable
