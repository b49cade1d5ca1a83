"""Learn to fine-tune language models cheaply: build every LoRA variant from first principles, then use it for real.

    config = AdapterConfig(method="lora", rank=8, alpha=16, target_modules=["query", "value"], trainable=["classifier"])
    inject(model, config)                           # in place: wraps the targets, freezes the rest
    optimizer = make_optimizer(model, lr=1e-3)
    ...                                             # train as you always do
    save_adapter(model, folder)                     # PEFT's own format
    merge(model)                                    # fold the update into the base weights
"""

from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.files import load_adapter, save_adapter
from lora_course.adapters.inject import adapters, eject, inject, merge, unmerge
from lora_course.adapters.optimizers import make_optimizer
from lora_course.adapters.report import parameter_report

__version__ = "0.1.0"
__all__ = [
    "AdapterConfig",
    "adapters",
    "eject",
    "inject",
    "load_adapter",
    "make_optimizer",
    "merge",
    "parameter_report",
    "save_adapter",
    "unmerge",
]
