"""Where the memory of a training step goes: measured on a step that runs, or planned for one that need not."""

from lora_course.memory.measure import StepMemory, measure
from lora_course.memory.plan import MemoryPlan, plan

__all__ = ["MemoryPlan", "StepMemory", "measure", "plan"]
