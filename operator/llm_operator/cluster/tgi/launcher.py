"""What the launcher decides between parsing and starting anything: shards, and what it refuses.

Knows the arguments, the environment and what config.json says of quantization. Refuses to know the
GPUs, the model's shape and its weights: the real launcher does not look at them either, which is
why so much is refused late, by the shards and the router (`shard`, `warmup`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .args import Args
from .versions import Version

# The checkpoint formats that the launcher recognises in config.json's `quantization_config`.
_RECOGNISED = {
    "awq": "awq",
    "compressed-tensors": "compressed-tensors",
    "exl2": "exl2",
    "fbgemm_fp8": "fp8",
    "fp8": "fp8",
    "gptq": "gptq",
    "marlin": "marlin",
}


class Refused(Exception):
    """The launcher ends by itself: exit code and the line it prints as the reason."""

    def __init__(self, code: int, error: str) -> None:
        super().__init__(error)
        self.code = code
        self.error = error


@dataclass(frozen=True)
class Launch:
    """What the launcher settled before it starts the download.

    `quantize` is the method asked for, else the one that config.json names.
    """

    shards: int
    quantize: str | None


def launch(
    args: Args,
    env: Mapping[str, str],
    config: Mapping[str, object],
    version: Version,
    devices_seen: int | None = None,
) -> Launch:
    """Settle shards and quantization, or raise Refused with exit code 1 or 101.

    `devices_seen` is what nvidia-smi would list, None where there is no nvidia-smi.
    """
    quantize = args.text("quantize") or quantize_of(config)
    _check_lengths(args, version)
    shards = find_shards(args, env, version, devices_seen)
    if shards > 1 and args.text("quantize") == "exl2":
        raise _invalid("Sharding is currently not supported with `exl2` quantization")
    if args.integer("validation-workers") == 0:
        raise _invalid("`validation_workers` must be > 0")
    _check_ngrok(args)
    _check_lora(args)
    return Launch(shards, quantize)


def quantize_of(config: Mapping[str, object]) -> str | None:
    """The method of a quantized checkpoint, None for a format that the launcher does not know."""
    section = config.get("quantization_config")
    if not isinstance(section, Mapping):
        return None
    return _RECOGNISED.get(str(section.get("quant_method")))


def find_shards(
    args: Args, env: Mapping[str, str], version: Version, devices_seen: int | None
) -> int:
    """How many shard processes to start: `--num-shard` wins, else the devices that are visible."""
    sharded, asked = args.flag("sharded"), args.integer("num-shard")
    if sharded and asked is None:
        visible = visible_devices(env, version, devices_seen)
        if visible is None:
            raise Refused(101, "panicked at src/main.rs:1384:18:")
        if visible <= 1:
            raise Refused(
                1,
                f'NotEnoughCUDADevices("`sharded` is true but only found {visible} CUDA devices")',
            )
        return visible
    if sharded and asked is not None and asked <= 1:
        raise _invalid("`sharded` is true but `num_shard` <= 1")
    if asked is None:
        shards = 1 if sharded is False else visible_devices(env, version, devices_seen) or 1
    else:
        shards = asked
    if shards < 1:
        raise _invalid("`num_shard` cannot be < 1")
    return shards


def visible_devices(
    env: Mapping[str, str], version: Version, devices_seen: int | None
) -> int | None:
    """Entries of the first device variable that is set; None when none is.

    From 3.3.7 on `all` and `void` (what the container toolkit sets in CDI mode) ask nvidia-smi;
    before, they counted as one entry like any other word.
    """
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        if name not in env:
            continue
        value = env[name]
        asks_smi = name == "NVIDIA_VISIBLE_DEVICES" and value in ("all", "void")
        if asks_smi and version >= (3, 3, 7):
            return devices_seen or 1
        return len(value.split(","))
    return None


def _check_lengths(args: Args, version: Version) -> None:
    name = "max_input_tokens" if version >= (2, 0, 0) else "max_input_length"
    tokens, length = args.integer("max-input-tokens"), args.integer("max-input-length")
    if tokens is not None and length is not None:
        raise _invalid(
            f"Both `max_input_tokens` ({tokens}) and `max_input_length` ({length}) are set. "
            "Please define only `max_input_tokens` as `max_input_length is deprecated for naming "
            "consistency."
        )
    longest = tokens if tokens is not None else length
    total, budget = args.integer("max-total-tokens"), args.integer("max-batch-total-tokens")
    if version < (2, 0, 0):
        longest, total = longest or 1024, total or 2048
    if longest is not None and total is not None and longest >= total:
        raise _invalid(f"`{name}`({longest}) must be < `max_total_tokens`({total})")
    if total is not None and budget is not None and total > budget:
        raise _invalid(
            f"`max_total_tokens` must be <= `max_batch_total_tokens`. Given: {total} and {budget}"
        )


def _check_ngrok(args: Args) -> None:
    if not args.flag("ngrok"):
        return
    for name in ("ngrok-authtoken", "ngrok-edge"):
        if args.text(name) is None:
            raise _invalid(f"`{name}` must be set when using ngrok tunneling")


def _check_lora(args: Args) -> None:
    for adapter in (args.text("lora-adapters") or "").split(","):
        if adapter.count("@") > 1:
            raise _invalid(f"Invalid LoRA adapter format: {adapter}")


def _invalid(why: str) -> Refused:
    escaped = why.replace('"', '\\"')
    return Refused(1, f'ArgumentValidation("{escaped}")')
