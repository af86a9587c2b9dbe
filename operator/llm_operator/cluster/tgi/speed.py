"""How long a forward pass takes: a law fitted to measured prefill and decode times.

    decode  = bytes read per GPU / effective bandwidth + layers * time per layer + all-reduces
    prefill = FLOPs per GPU / (efficiency * peak) + all-reduces, never less than a weight read

The constants of H100 and H200 are measured; other cards take 85 % of their published bandwidth and
0.04 ms per layer. Weight-only quantization makes decode read fewer bytes and leaves prefill as it
is; bitsandbytes is slower than 16 bit, as its authors say. Pure arithmetic: no clock, no queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_operator.cluster.fleet.container import Gpu

from .cards import card_of
from .shape import Shape

_BITSANDBYTES_SLOWDOWN = 1.2
_UNMEASURED_SHARE = 0.85
_UNMEASURED_LAYER_MS = 0.04
_GRAPH_REDUCE_MS = 0.013
_REDUCE_MS = 0.024


@dataclass(frozen=True)
class Law:
    """Everything a pass costs, per GPU of one replica. Times in seconds, sizes in bytes."""

    read_bytes: float
    kv_bytes_per_token: float
    bandwidth: float
    fixed: float
    flops_per_token: float
    flops_per_token_squared: float
    peak_flops: float
    reduces: int
    reduce_bytes_per_token: float
    link_bandwidth: float

    def decode(self, contexts: Sequence[int]) -> float:
        """One token for each sequence; `contexts` are their lengths so far."""
        read = self.read_bytes + self.kv_bytes_per_token * sum(contexts)
        return read / self.bandwidth + self.fixed + self.reduces * _GRAPH_REDUCE_MS / 1e3

    def prefill(self, lengths: Sequence[int]) -> float:
        """The first token for each prompt; `lengths` in tokens."""
        tokens = sum(lengths)
        flops = self.flops_per_token * tokens
        flops += self.flops_per_token_squared * sum(n * n for n in lengths)
        reduce = _REDUCE_MS / 1e3 + self.reduce_bytes_per_token * tokens / self.link_bandwidth
        compute = flops / (self.peak_flops * _efficiency(tokens)) + self.reduces * reduce
        return max(compute, self.decode([]))


def law_of(
    shape: Shape, gpus: Sequence[Gpu], weight_bytes: float, kv_bytes_per_token: int, method: str
) -> Law:
    """The law of one replica on its cards.

    `weight_bytes` and `kv_bytes_per_token` are those of one rank; the embedding table, of which a
    pass reads a few rows, is left out of the reads, and so are experts that a token does not use.
    """
    shards, card = len(gpus), card_of(gpus[0].product)
    embedding = 2 * shape.embedding / shards if shape.head else 0
    blocks = weight_bytes - 2 * (shape.embedding + shape.head) / shards
    read = blocks * shape.active / max(shape.linear, 1) + weight_bytes - embedding - blocks
    if method.startswith("bitsandbytes"):
        read = 2 * (shape.active + (shape.head or shape.embedding)) / shards
        read *= _BITSANDBYTES_SLOWDOWN
    bandwidth = card.effective_gbs or card.bandwidth_gbs * _UNMEASURED_SHARE
    return Law(
        read_bytes=read,
        kv_bytes_per_token=kv_bytes_per_token,
        bandwidth=bandwidth * 1e9,
        fixed=shape.layers * (card.layer_ms or _UNMEASURED_LAYER_MS) / 1e3,
        flops_per_token=2 * shape.active / shards,
        flops_per_token_squared=2 * shape.layers * shape.heads * shape.head_dim / shards,
        peak_flops=card.tflops * 1e12,
        reduces=2 * shape.layers if shards > 1 else 0,
        reduce_bytes_per_token=2 * shape.hidden,
        link_bandwidth=300e9 if card.nvlink else 12e9,
    )


def _efficiency(tokens: int) -> float:
    """Share of the peak: 0.55 up to 512 tokens, 0.66 from 2,048 on, linear between."""
    return 0.55 + 0.11 * min(max(tokens - 512, 0) / 1536, 1.0)
