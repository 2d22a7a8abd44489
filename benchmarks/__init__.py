"""Benchmarks: one file per claim, each against a named peer that takes turns with ours."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NAMES = (
    "adamw",
    "adamw_small",
    "adamw_bf16",
    "adamw_bf16_states",
    "adamw_amp",
    "sgd",
    "adagrad",
    "all_reduce_small",
    "all_reduce_deepspeed",
    "all_reduce",
    "all_reduce_bandwidth",
    "all_reduce_bf16",
    "send_recv",
    "dist_all_reduce",
    "train_step",
    "ddp_step",
    "memory_pool",
    "memory_replay",
    "prefetch",
)
