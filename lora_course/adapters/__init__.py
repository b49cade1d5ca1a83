"""One technique, one file. `METHODS` maps the name in `AdapterConfig(method=…)` to the layer that implements it."""

from lora_course.adapters.adalora import AdaLoRA
from lora_course.adapters.delta_lora import DeltaLoRA
from lora_course.adapters.dylora import DyLoRA
from lora_course.adapters.lora import LoRA

METHODS = {
    "lora": LoRA,
    "adalora": AdaLoRA,
    "delta_lora": DeltaLoRA,
    "dylora": DyLoRA,
}
