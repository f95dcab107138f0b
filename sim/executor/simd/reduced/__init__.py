"""Products of fewer bits: int8, bf16, fp16 and coded weights."""
