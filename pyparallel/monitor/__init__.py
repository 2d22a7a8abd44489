"""Seeing what runs: spans now, sinks and traces on top of them."""

from pyparallel.monitor.spans import SPANS, Span, SpanRing

__all__ = ["SPANS", "Span", "SpanRing"]
