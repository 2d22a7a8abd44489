"""Data parallelism: every rank holds the model, gradients are averaged while backward goes on."""

from pyparallel.data_parallel.wrapper import DataParallel

__all__ = ["DataParallel"]
