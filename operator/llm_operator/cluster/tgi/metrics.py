"""The /metrics page: names, types, labels and buckets as the router exports them.

A series exists from its first use on, so the page of a fresh server is empty. Counts only: when to
count is decided by `driver` and `router`. Histograms are sparse, because a replica has thousands of
buckets and the fleet a thousand replicas.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from decimal import Decimal
from functools import cache

from .engine import Gauges

_HELP = {
    "tgi_request_success": "Number of successful requests",
    "tgi_request_count": "Total number of requests",
    "tgi_batch_inference_success": (
        "Number of successful inference calls per method (prefill or decode)"
    ),
    "tgi_batch_inference_count": "Inference calls per method (prefill or decode)",
    "tgi_batch_current_size": "Current batch size",
    "tgi_queue_size": "Current queue size",
    "tgi_batch_current_max_tokens": "Maximum tokens for the current batch",
    "tgi_request_validation_duration": "Request validation duration",
    "tgi_request_inference_duration": "Request inference duration",
    "tgi_request_input_length": "Input token length per request",
    "tgi_batch_filter_duration": (
        "Time spent filtering batches and sending generated tokens per method (prefill or decode)"
    ),
    "tgi_batch_next_size": "Batch size of the next batch",
    "tgi_request_queue_duration": "Request queue duration",
    "tgi_request_duration": "Request duration",
    "tgi_request_mean_time_per_token_duration": "Mean time per token per request",
    "tgi_batch_decode_duration": ("Time spent decoding a batch per method (prefill or decode)"),
    "tgi_batch_inference_duration": "Batch inference duration",
    "tgi_request_max_new_tokens": "Maximum new tokens per request",
    "tgi_request_generated_tokens": "Generated tokens per request",
    "tgi_batch_forward_duration": "Batch forward duration per method (prefill or decode)",
    "tgi_request_skipped_tokens": "Speculated tokens per request",
}
_QUANTILES = ("0", "0.5", "0.9", "0.95", "0.99", "0.999", "1")
_SKIPPED = "tgi_request_skipped_tokens"
_DURATIONS = tuple(0.0001 * 1.5**k for k in range(1, 36))

Labels = tuple[tuple[str, str], ...]


class _Histogram:
    """Counts per bucket that was hit, their sum and number."""

    def __init__(self) -> None:
        self.hits: Counter[int] = Counter()
        self.sum = 0.0
        self.count = 0


class Metrics:
    """The series of one server. Bounds of the token histograms follow the server's limits."""

    def __init__(self, max_input_tokens: int, max_total_tokens: int) -> None:
        self._max_input = max_input_tokens
        self._max_total = max_total_tokens
        self._counters: dict[str, Counter[Labels]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}
        self._generated = 0

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """Add to a counter."""
        self._counters.setdefault(name, Counter())[tuple(labels.items())] += by

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Record a value in a histogram (seconds, or tokens, or requests)."""
        series = self._histograms.setdefault(name, {})
        histogram = series.setdefault(tuple(labels.items()), _Histogram())
        histogram.hits[bisect_left(self._bounds(name), value)] += 1
        histogram.sum += value
        histogram.count += 1

    def tokens(self, number: int) -> None:
        """Record generated tokens; none of them was speculated."""
        self._generated += number

    def render(self, gauges: Gauges) -> str:
        """The page in the text format, counters first, then gauges, histograms, the summary."""
        lines: list[str] = []
        for name, counter in self._counters.items():
            lines += _head(name, "counter")
            lines += [f"{name}{_braces(labels)} {value}" for labels, value in counter.items()]
            lines.append("")
        for name, gauge in (
            ("tgi_batch_current_size", gauges.batch),
            ("tgi_queue_size", gauges.queue),
            ("tgi_batch_current_max_tokens", gauges.batch_tokens),
        ):
            if gauge is not None:
                lines += [*_head(name, "gauge"), f"{name} {gauge}", ""]
        for name, series in self._histograms.items():
            lines += _head(name, "histogram")
            for labels, histogram in series.items():
                lines += self._buckets(name, labels, histogram)
            lines.append("")
        if self._generated:
            lines += _head(_SKIPPED, "summary")
            lines += [f'{_SKIPPED}{{quantile="{quantile}"}} 0' for quantile in _QUANTILES]
            lines += [f"{_SKIPPED}_sum 0", f"{_SKIPPED}_count {self._generated}", ""]
        return "\n".join([*lines, ""]) if lines else ""

    def _buckets(self, name: str, labels: Labels, histogram: _Histogram) -> list[str]:
        prefix = "".join(f'{key}="{value}",' for key, value in labels)
        lines, below = [], 0
        bounds = self._bounds(name)
        for index, bound in enumerate(_texts(bounds)):
            below += histogram.hits.get(index, 0)
            lines.append(f'{name}_bucket{{{prefix}le="{bound}"}} {below}')
        lines.append(f'{name}_bucket{{{prefix}le="+Inf"}} {histogram.count}')
        lines.append(f"{name}_sum{_braces(labels)} {_text(histogram.sum)}")
        lines.append(f"{name}_count{_braces(labels)} {histogram.count}")
        return lines

    def _bounds(self, name: str) -> tuple[float, ...]:
        if name.endswith("duration"):
            return _DURATIONS
        if name == "tgi_batch_next_size":
            return _steps(1024, 1024)
        if name == "tgi_request_input_length":
            return _steps(self._max_input, 100)
        return _steps(self._max_total, 100)


@cache
def _steps(top: int, number: int) -> tuple[float, ...]:
    return tuple(top / number * (step + 1) for step in range(number))


@cache
def _texts(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(_text(bound) for bound in bounds)


def _text(value: float) -> str:
    """A number the way Rust prints it: no exponent, no trailing `.0`."""
    if value == int(value):
        return str(int(value))
    return format(Decimal(repr(value)), "f")


def _head(name: str, kind: str) -> list[str]:
    described = [f"# HELP {name} {_HELP[name]}"] if name in _HELP else []
    return [*described, f"# TYPE {name} {kind}"]


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{key}="{value}"' for key, value in labels) + "}" if labels else ""
