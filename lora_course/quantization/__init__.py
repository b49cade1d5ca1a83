"""Weights in 8, 4 or fewer bits: formats (int8, NF4, uniform), double quantization, and a frozen base for adapters."""

from lora_course.quantization.base import dequantize_base, quantize_base
from lora_course.quantization.int8 import Int8, dequantize_int8, quantize_int8
from lora_course.quantization.nf4 import NF4, dequantize_nf4, quantize_nf4

__all__ = [
    "NF4",
    "Int8",
    "dequantize_base",
    "dequantize_int8",
    "dequantize_nf4",
    "quantize_base",
    "quantize_int8",
    "quantize_nf4",
]
