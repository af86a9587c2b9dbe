"""The launcher's options as a table: name, kind of value, default, and the releases that have it.

Decides nothing: `args` reads command lines by these rows, `launcher` judges the values together.
Kinds follow the types that the launcher declares, because each refuses in its own words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .versions import NEWEST, Version


class Kind(Enum):
    """How the text of a value becomes a value."""

    FLAG = "flag"
    TEXT = "text"
    BOOL = "bool"
    USIZE = "usize"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    F32 = "f32"
    CHOICE = "choice"
    USIZE_LIST = "usize list"
    TEXT_LIST = "text list"


Value = bool | int | float | str | tuple[int, ...] | tuple[str, ...] | None
_FIRST = Version(1, 0, 0)


@dataclass(frozen=True)
class Option:
    """One option; `choices` pairs each accepted word with the first release that knew it."""

    name: str
    kind: Kind
    default: Value = None
    short: str | None = None
    since: Version = _FIRST
    until: Version | None = None
    choices: tuple[tuple[str, Version], ...] = ()
    from_env: bool = True

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def env(self) -> str | None:
        return self.name.upper().replace("-", "_") if self.from_env else None

    @property
    def shown(self) -> str:
        """How error messages name it: `--port <PORT>`, and a flag without the value."""
        if self.kind is Kind.FLAG:
            return self.flag
        return f"{self.flag} <{self.name.upper().replace('-', '_')}>"

    @property
    def repeatable(self) -> bool:
        return self.kind in (Kind.USIZE_LIST, Kind.TEXT_LIST)

    def words(self, version: Version) -> tuple[str, ...]:
        """The accepted words of a choice in one release."""
        return tuple(word for word, since in self.choices if version >= since)

    def known_to(self, version: Version) -> bool:
        return self.since <= version and (self.until is None or version < self.until)


def _always(*words: str) -> tuple[tuple[str, Version], ...]:
    return tuple((word, _FIRST) for word in words)


_V = Version
_QUANTIZE = (
    ("awq", _V(1, 1, 0)),
    ("compressed-tensors", _V(2, 4, 1)),
    ("eetq", _V(1, 1, 0)),
    ("exl2", _V(2, 1, 0)),
    ("gptq", _FIRST),
    ("marlin", _V(2, 1, 0)),
    ("bitsandbytes", _FIRST),
    ("bitsandbytes-nf4", _V(1, 0, 1)),
    ("bitsandbytes-fp4", _V(1, 0, 1)),
    ("fp8", _V(2, 0, 0)),
)

OPTIONS: tuple[Option, ...] = (
    Option("model-id", Kind.TEXT, "bigscience/bloom-560m"),
    Option("revision", Kind.TEXT),
    Option("validation-workers", Kind.USIZE, 2),
    Option("sharded", Kind.BOOL),
    Option("num-shard", Kind.USIZE),
    Option("quantize", Kind.CHOICE, choices=_QUANTIZE),
    Option("speculate", Kind.USIZE, since=_V(1, 3, 0)),
    Option("dtype", Kind.CHOICE, choices=_always("float16", "bfloat16")),
    Option(
        "kv-cache-dtype",
        Kind.CHOICE,
        since=_V(2, 4, 0),
        choices=_always("fp8_e4m3fn", "fp8_e5m2"),
    ),
    Option("trust-remote-code", Kind.FLAG, False),
    Option("max-concurrent-requests", Kind.USIZE, 128),
    Option("max-best-of", Kind.USIZE, 2),
    Option("max-stop-sequences", Kind.USIZE, 4),
    Option("max-top-n-tokens", Kind.U32, 5, since=_V(1, 0, 1)),
    Option("max-input-tokens", Kind.USIZE, since=_V(2, 0, 0)),
    Option("max-input-length", Kind.USIZE),
    Option("max-total-tokens", Kind.USIZE),
    Option("waiting-served-ratio", Kind.F32, 0.3),
    Option("max-batch-prefill-tokens", Kind.U32),
    Option("max-batch-total-tokens", Kind.U32),
    Option("max-waiting-tokens", Kind.USIZE, 20),
    Option("max-batch-size", Kind.USIZE, since=_V(1, 4, 0)),
    Option("enable-cuda-graphs", Kind.FLAG, False, since=_V(1, 4, 0), until=_V(2, 0, 0)),
    Option("cuda-graphs", Kind.USIZE_LIST, since=_V(2, 0, 0)),
    Option("hostname", Kind.TEXT, "0.0.0.0"),
    Option("port", Kind.U16, 3000, short="p"),
    # The short name is declared twice; a release build finds the first one.
    Option("prometheus-port", Kind.U16, 9000, short="p", since=_V(3, 3, 0)),
    Option("shard-uds-path", Kind.TEXT, "/tmp/text-generation-server"),
    Option("master-addr", Kind.TEXT, "localhost"),
    Option("master-port", Kind.USIZE, 29500),
    Option("huggingface-hub-cache", Kind.TEXT),
    Option("weights-cache-override", Kind.TEXT),
    Option("disable-custom-kernels", Kind.FLAG, False),
    Option("cuda-memory-fraction", Kind.F32, 1.0),
    Option("rope-scaling", Kind.CHOICE, since=_V(1, 0, 1), choices=_always("linear", "dynamic")),
    Option("rope-factor", Kind.F32, since=_V(1, 0, 1)),
    Option("json-output", Kind.FLAG, False),
    Option("otlp-endpoint", Kind.TEXT),
    Option("otlp-service-name", Kind.TEXT, "text-generation-inference.router", since=_V(2, 1, 0)),
    Option("cors-allow-origin", Kind.TEXT_LIST),
    Option("api-key", Kind.TEXT, since=_V(2, 3, 0)),
    Option("watermark-gamma", Kind.F32),
    Option("watermark-delta", Kind.F32),
    Option("ngrok", Kind.FLAG, False),
    Option("ngrok-authtoken", Kind.TEXT),
    Option("ngrok-edge", Kind.TEXT),
    Option("tokenizer-config-path", Kind.TEXT, since=_V(1, 4, 0)),
    Option("disable-grammar-support", Kind.FLAG, False, since=_V(1, 4, 0)),
    Option("env", Kind.FLAG, False, short="e", from_env=False),
    Option("max-client-batch-size", Kind.USIZE, 4, since=_V(2, 0, 1)),
    Option("lora-adapters", Kind.TEXT, since=_V(2, 1, 0)),
    Option("disable-usage-stats", Kind.FLAG, False, since=_V(2, 2, 0), until=_V(2, 3, 0)),
    Option("disable-crash-reports", Kind.FLAG, False, since=_V(2, 2, 0), until=_V(2, 3, 0)),
    Option(
        "usage-stats",
        Kind.CHOICE,
        "on",
        since=_V(2, 3, 0),
        choices=_always("on", "off", "no-stack"),
    ),
    Option("payload-limit", Kind.USIZE, 2_000_000, since=_V(2, 4, 1)),
    Option("enable-prefill-logprobs", Kind.FLAG, False, since=_V(3, 0, 0)),
    Option("graceful-termination-timeout", Kind.U64, 90, short="g", since=_V(3, 2, 2)),
)


def options_of(version: Version = NEWEST) -> tuple[Option, ...]:
    """The options that one release declares."""
    return tuple(option for option in OPTIONS if option.known_to(version))
