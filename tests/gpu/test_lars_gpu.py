"""LARS on CUDA against the CPU in float64: sizes, alignments, masters, skips, bits."""

from on_both import MeasuringCases
from pyparallel.optim import LARS


class TestLARS(MeasuringCases):
    @staticmethod
    def make(params, **options):
        return LARS(params, lr=0.5, momentum=0.9, trust_coefficient=0.1, **options)
