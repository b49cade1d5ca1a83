"""One technique, one file. `METHODS` maps the name in `AdapterConfig(method=…)` to the layer that implements it."""

from lora_course.adapters.adalora import AdaLoRA
from lora_course.adapters.delta_lora import DeltaLoRA
from lora_course.adapters.dora import DoRA
from lora_course.adapters.dylora import DyLoRA
from lora_course.adapters.houlsby import Houlsby
from lora_course.adapters.ia3 import IA3
from lora_course.adapters.loftq import LoftQ
from lora_course.adapters.loha import LoHa
from lora_course.adapters.lokr import LoKr
from lora_course.adapters.lora import LoRA
from lora_course.adapters.lora_fa import LoRAFA
from lora_course.adapters.olora import OLoRA
from lora_course.adapters.pissa import PiSSA
from lora_course.adapters.rslora import RsLoRA
from lora_course.adapters.vera import VeRA

METHODS = {
    "lora": LoRA,
    "rslora": RsLoRA,
    "lora_fa": LoRAFA,
    "vera": VeRA,
    "delta_lora": DeltaLoRA,
    "dora": DoRA,
    "pissa": PiSSA,
    "olora": OLoRA,
    "loftq": LoftQ,
    "adalora": AdaLoRA,
    "dylora": DyLoRA,
    "ia3": IA3,
    "loha": LoHa,
    "lokr": LoKr,
    "houlsby": Houlsby,
}
