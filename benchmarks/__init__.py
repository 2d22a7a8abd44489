"""Benchmarks: one file per claim, each against a named peer that takes turns with ours."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("adamw", "adamw_small", "adamw_bf16", "all_reduce_small", "all_reduce", "train_step")
