"""LAMB on CUDA against the CPU in float64: sizes, alignments, masters, skips, bits."""

from on_both import MeasuringCases
from pyparallel.optim import LAMB


class TestLAMB(MeasuringCases):
    @staticmethod
    def make(params, **options):
        return LAMB(params, lr=0.02, weight_decay=0.125, **options)
