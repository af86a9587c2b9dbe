"""Simulated containers for tests: cards, a tiny model on a disk, a server that is up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count

import aiohttp

from llm_operator.cluster.fleet.container import ContainerSpec, Exit, Gpu, Volume
from llm_operator.cluster.tgi import TgiProgram
from llm_operator.cluster.tgi.program import TgiProcess

A100 = Gpu("NVIDIA-A100-SXM4-80GB", 81920, 8.0)
H100 = Gpu("NVIDIA-H100-80GB-HBM3", 81559, 9.0)
L4 = Gpu("NVIDIA-L4", 23034, 8.9)
T4 = Gpu("Tesla-T4", 15360, 7.5)
V100 = Gpu("Tesla-V100-SXM2-16GB", 16384, 7.0)

IMAGE = "ghcr.io/huggingface/text-generation-inference:3.3.7"
DEMO_CONFIG: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}
DEMO = Volume("/models", True, models={"demo": json.dumps({"config": DEMO_CONFIG})})
FAST = TgiProgram(speed=1e6, decode_speed=1000.0)

_addresses = count(10)


def spec(
    *args: str,
    gpu: Gpu = A100,
    gpus: int = 1,
    env: Mapping[str, str] | None = None,
    faults: dict[str, str] | None = None,
    image: str = IMAGE,
) -> ContainerSpec:
    """A container with `gpus` cards and an address of its own; the port is found when it is up."""
    number = next(_addresses)
    ip = f"127.1.{number // 250}.{number % 250 + 1}"
    shm = 1 << 30 if gpus > 1 else 64 << 20
    faults = {} if faults is None else faults
    return ContainerSpec(
        image, args, dict(env or {}), ip, "p", (gpu,) * gpus, (), shm, faults=faults
    )


def demo(*args: str, env: Mapping[str, str] | None = None, **faults: str) -> ContainerSpec:
    """A container of the tiny model, with `faults` that a test may change while it runs."""
    named = {kind.replace("_", "-"): value for kind, value in faults.items()}
    given = spec("--model-id", "/models/demo", "--port", "8080", *args, env=env, faults=named)
    return replace(given, volumes=(DEMO,))


@dataclass
class Up:
    """A server that answers. `task` ends with the container."""

    process: TgiProcess
    task: asyncio.Task[Exit]
    http: aiohttp.ClientSession
    url: str


@asynccontextmanager
async def serving(container: ContainerSpec, program: TgiProgram = FAST) -> AsyncIterator[Up]:
    """Start a container and wait for its port; kill it afterwards."""
    process = program.start(container)
    task = asyncio.create_task(process.run())
    try:
        while process.port is None:
            if task.done():
                raise AssertionError(task.result())
            await asyncio.sleep(0.001)
        url = f"http://{container.ip}:{process.port}"
        async with aiohttp.ClientSession() as http:
            yield Up(process, task, http, url)
    finally:
        process.kill()
        await asyncio.wait({task})


async def until(happens: Callable[[], bool]) -> None:
    """Poll for something that nobody announces."""
    async with asyncio.timeout(10):
        while not happens():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def run_to_end(container: ContainerSpec, program: TgiProgram = FAST) -> Exit:
    """Run a container that is expected to end by itself."""
    async with asyncio.timeout(10):
        return await program.start(container).run()
