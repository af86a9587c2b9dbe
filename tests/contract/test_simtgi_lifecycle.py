"""One container from start to end: ports, signals, drain, faults, exit codes, logs."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from tests.simtgi import A100, FAST, Up, demo, run_to_end, serving, spec, until

from llm_operator.cluster.fleet.container import Volume
from llm_operator.cluster.tgi import TgiProgram

OLD = "ghcr.io/huggingface/text-generation-inference:2.3.1"


async def _generate(up: Up, tokens: int = 3, path: str = "/generate") -> tuple[int, str]:
    body = {"inputs": "hello", "parameters": {"max_new_tokens": tokens}}
    async with up.http.post(up.url + path, json=body) as response:
        return response.status, await response.text()


async def _status(up: Up, path: str) -> int:
    async with up.http.get(up.url + path) as response:
        return response.status


async def _metrics(up: Up) -> list[str]:
    async with up.http.get(up.url + "/metrics") as response:
        return (await response.text()).splitlines()


async def _running(up: Up, number: int) -> None:
    """Wait until so many requests are in the batch."""
    while f"tgi_batch_current_size {number}" not in await _metrics(up):
        pass


async def test_the_port_is_closed_until_the_warm_up_is_over() -> None:
    container = demo(slow_start="0.3")
    process = FAST.start(container)
    task = asyncio.create_task(process.run())
    await until(lambda: "Warming up model" in process.logs())
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection(container.ip, 8080)
    process.terminate()
    assert (await task).code == 0


async def test_log_markers_in_their_order() -> None:
    async with serving(demo("--num-shard", "1")) as up:
        log = up.process.logs()
    markers = [
        "Args {",
        "Successfully downloaded weights",
        "Shard ready in",
        "Warming up model",
        "Setting max batch total tokens to",
        "Connected",
    ]
    places = [log.index(marker) for marker in markers]
    assert places == sorted(places)


async def test_loading_takes_as_long_as_the_bytes_divided_by_speed() -> None:
    """16 GB: 3 s to parse, 16 s to download, 8 s to load, 10 s to warm up."""
    loop = asyncio.get_running_loop()
    container = spec("--model-id", "NousResearch/Meta-Llama-3.1-8B-Instruct", "--port", "8080")
    began = loop.time()
    async with serving(container, TgiProgram(speed=100.0)):
        took = loop.time() - began
    assert 0.37 <= took <= 5


async def test_drain_refuses_new_connections_and_finishes_what_it_has() -> None:
    faults = {"slow": "3000"}
    container = replace(demo(), faults=faults)
    async with serving(container) as up:
        requests = [asyncio.create_task(_generate(up, 20)) for _ in range(3)]
        await _running(up, 3)
        up.process.terminate()
        await until(lambda: up.process.port is None)
        async with aiohttp.ClientSession() as fresh:
            with pytest.raises(aiohttp.ClientConnectorError):
                await fresh.get(up.url + "/health")
        assert not up.task.done()
        del faults["slow"]
        assert [status for status, _ in await asyncio.gather(*requests)] == [200, 200, 200]
        async with asyncio.timeout(5):  # right after the last, whoever holds a connection open
            assert (await up.task).code == 0


@pytest.mark.parametrize("turns", range(8))
async def test_a_request_on_an_idle_connection_is_answered_or_not_read_never_dropped(
    turns: int,
) -> None:
    """It comes so many turns of the event loop after SIGTERM. A reset says: not read."""
    container = demo()
    async with serving(container) as up:
        reader, writer = await asyncio.open_connection(container.ip, 8080)
        request = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(request)
        await reader.readuntil(b"}")
        up.process.terminate()
        for _ in range(turns):
            await asyncio.sleep(0)
        connection = writer.get_extra_info("socket")
        closed_before = _peek(connection) == b""
        writer.write(request)
        try:
            answered = b"200 OK" in await reader.read()
        except ConnectionResetError:
            answered = True
        assert answered or closed_before
        writer.close()


def _peek(connection: Any) -> bytes | None:
    """What could be read: b"" where the other side has closed, None where there is nothing."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        try:
            return same.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None


async def test_queued_requests_finish_too() -> None:
    async with serving(demo("--max-batch-size", "1")) as up:
        requests = [asyncio.create_task(_generate(up, 100)) for _ in range(3)]
        await _running(up, 1)
        up.process.terminate()
        assert [status for status, _ in await asyncio.gather(*requests)] == [200, 200, 200]


async def test_graceful_termination_ends_at_its_time_out() -> None:
    async with serving(demo("-g", "0", hang="")) as up:
        waiting = asyncio.create_task(_status(up, "/health"))
        await asyncio.sleep(0.01)
        up.process.terminate()
        assert (await up.task).code == 0
        with pytest.raises(aiohttp.ClientError):
            await waiting


async def test_releases_2_0_to_2_3_do_not_hear_sigterm() -> None:
    async with serving(replace(demo(), image=OLD)) as up:
        up.process.terminate()
        await asyncio.sleep(0.02)
        assert await _status(up, "/health") == 200
        up.process.kill()
        assert (await up.task).code == 137


async def test_kill_resets_connections() -> None:
    async with serving(demo(hang="")) as up:
        waiting = asyncio.create_task(_status(up, "/health"))
        await asyncio.sleep(0.01)
        up.process.kill()
        assert (await up.task).code == 137
        with pytest.raises(aiohttp.ClientError):
            await waiting


async def test_cancelling_run_frees_the_port() -> None:
    container = demo()
    async with serving(container) as up:
        up.task.cancel()
        await asyncio.wait({up.task})
        with pytest.raises(aiohttp.ClientConnectorError):
            await _status(up, "/health")
        async with serving(container) as again:
            assert await _status(again, "/health") == 200


async def test_sigterm_while_loading_is_a_normal_end() -> None:
    container = spec("--model-id", "Qwen/Qwen2.5-7B-Instruct", "--port", "8080")
    process = TgiProgram(speed=1.0).start(container)
    task = asyncio.create_task(process.run())
    await asyncio.sleep(0)
    process.terminate()
    assert (await task).code == 0


ENDS: list[tuple[str, dict[str, str], int, str]] = [
    ("crash while loading", {"crash-loading": ""}, 1, "Error: ShardCannotStart"),
    ("GPU out of memory", {"oom": ""}, 1, "Not enough memory to handle 4096 prefill tokens"),
    ("killed by the kernel", {"oom": "host"}, 137, ""),
    ("a shard dies", {"shard-failed": ""}, 1, "Error: ShardFailed"),
]


@pytest.mark.parametrize(("_", "faults", "code", "message"), ENDS, ids=[end[0] for end in ENDS])
async def test_faults_that_end_it(_: str, faults: dict[str, str], code: int, message: str) -> None:
    end = await run_to_end(replace(demo(), faults=faults))
    assert (end.code, end.oom_killed) == (code, code == 137)
    assert message in end.log_tail
    assert len(end.log_tail) <= 2048


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("hub-401", "401 Client Error. Cannot access gated repo"),
        ("hub-404", "404 Client Error. Repository Not Found"),
        ("hub-429", "429 Client Error: Too Many Requests"),
    ],
)
async def test_hub_faults(fault: str, message: str) -> None:
    container = spec("--model-id", "Qwen/Qwen2.5-7B-Instruct", faults={fault: ""})
    end = await run_to_end(container)
    assert end.code == 1
    assert message in end.log_tail
    assert end.log_tail.endswith("Error: DownloadError")


async def test_never_ready_until_the_fault_is_gone() -> None:
    container = demo(never_ready="")
    process = FAST.start(container)
    task = asyncio.create_task(process.run())
    await until(lambda: "Setting max batch total tokens" in process.logs())
    assert process.port is None
    process.terminate()
    assert (await task).code == 0


async def test_hang_accepts_and_never_answers() -> None:
    faults: dict[str, str] = {}
    async with serving(replace(demo(), faults=faults)) as up:
        assert await _status(up, "/health") == 200
        faults["hang"] = ""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await _status(up, "/health")


async def test_crash_after_so_many_answers() -> None:
    async with serving(demo(crash_after="2")) as up:
        assert [(await _generate(up))[0] for _ in range(2)] == [200, 200]
        end = await up.task
    assert end.code == 1
    assert end.log_tail.endswith("Error: ShardFailed")


async def test_garbage() -> None:
    async with serving(demo(garbage="")) as up:
        assert "!!!!" in (await _generate(up))[1]
    async with serving(demo(garbage="empty")) as up:
        assert (await _generate(up))[1] == '{"generated_text":""}'


async def test_a_client_that_leaves_frees_its_place() -> None:
    faults = {"slow": "3000"}
    container = replace(demo("--max-concurrent-requests", "1"), faults=faults)
    async with serving(container) as up:
        leaving = asyncio.create_task(_generate(up, 500))
        await _running(up, 1)
        assert (await _generate(up))[0] == 429
        leaving.cancel()
        del faults["slow"]
        while (await _generate(up))[0] == 429:
            pass
        assert 'tgi_request_failure{err="dropped"} 1' in await _metrics(up)


async def test_a_client_that_leaves_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    container = demo("--max-concurrent-requests", "1", slow="100")
    async with serving(container) as up:
        for path in ("/generate_stream", "/v1/completions"):
            body = {"inputs": "hello", "prompt": "hello", "stream": True, "max_tokens": 900}
            body |= {"parameters": {"max_new_tokens": 900}}
            async with up.http.post(up.url + path, json=body) as response:
                await response.content.readline()
            while (await _generate(up))[0] == 429:
                pass
        assert 'tgi_request_failure{err="dropped"} 2' in await _metrics(up)
    assert caplog.records == []


async def test_health_waits_for_the_pass_under_way() -> None:
    """The shards answer one call at a time: a long prefill holds the probe up."""
    faults = {"slow": "1000000"}  # 0.2 s for a token
    async with serving(replace(demo(), faults=faults)) as up:
        request = asyncio.create_task(_generate(up, 1))
        while 'tgi_batch_inference_count{method="prefill"} 1' not in await _metrics(up):
            pass
        assert await _status(up, "/health") == 200
        assert 'tgi_batch_inference_success{method="prefill"} 1' in await _metrics(up)
        assert (await request)[0] == 200


async def test_api_key() -> None:
    async with serving(demo("--api-key", "Secret")) as up:
        body = {"inputs": "hello", "parameters": {"max_new_tokens": 1}}
        statuses = []
        for key in ("Secret", "secret", "other"):
            headers = {"Authorization": f"Bearer {key}"}
            async with up.http.post(up.url + "/generate", json=body, headers=headers) as response:
                statuses.append(response.status)
        assert statuses == [200, 200, 401]
        assert await _status(up, "/health") == await _status(up, "/metrics") == 200


async def test_payload_limit_and_content_type() -> None:
    async with serving(demo("--payload-limit", "100")) as up:
        assert (await _generate(up))[0] == 200
        async with up.http.post(up.url + "/generate", json={"inputs": "x" * 200}) as response:
            assert response.status == 413
        async with up.http.post(up.url + "/generate", data=b"{}") as response:
            assert response.status == 415


async def test_best_of_and_full_text() -> None:
    wishes = {"best_of": 2, "do_sample": True, "max_new_tokens": 2, "details": True}
    async with serving(demo()) as up:
        body: dict[str, Any] = {"inputs": "hello", "parameters": wishes}
        async with up.http.post(up.url + "/", json=body) as response:
            (answer,) = await response.json()
    assert answer["generated_text"].startswith("hellodemo")
    assert len(answer["details"]["best_of_sequences"]) == 1


async def test_completions_take_a_list_of_prompts() -> None:
    async with serving(demo()) as up:
        for prompts, status in ((["a", "b"], 200), (["a"] * 5, 422)):
            body = {"prompt": prompts, "max_tokens": 2}
            async with up.http.post(up.url + "/v1/completions", json=body) as response:
                assert response.status == status
                answer = await response.json()
            if status == 200:
                assert [choice["index"] for choice in answer["choices"]] == [0, 1]
                assert answer["usage"]["completion_tokens"] == 4


async def test_a_revision_with_a_local_path_loses_the_chat_template() -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    async with serving(demo("--revision", "main")) as up:
        async with up.http.post(up.url + "/v1/chat/completions", json=body) as response:
            assert response.status == 422
            assert (await response.json())["error_type"] == "template_error"
        assert (await _generate(up))[0] == 200


async def test_a_hostname_that_is_no_address_listens_everywhere() -> None:
    async with serving(demo(env={"HOSTNAME": "llama-7f-abcde"})) as up:
        assert await _status(up, "/health") == 200


async def test_a_hostname_on_the_loopback_cannot_be_reached() -> None:
    container = demo("--hostname", "127.0.0.1")
    process = FAST.start(container)
    task = asyncio.create_task(process.run())
    await until(lambda: "Connected" in process.logs())
    assert process.port is None
    process.terminate()
    assert (await task).code == 0


async def test_the_image_sets_port_80() -> None:
    end = await run_to_end(replace(demo(), args=("--model-id", "/models/demo"), ip="192.0.2.1"))
    assert end.code == 1  # that address is nobody's: the bind fails
    assert end.log_tail.endswith("Error: WebserverFailed")


async def test_arguments_with_spaces_are_split_by_the_entry_point() -> None:
    end = await run_to_end(demo("--api-key", "two words"))
    assert end.code == 2
    assert "unexpected argument 'words' found" in end.log_tail


async def test_images_from_3_1_1_on_need_root() -> None:
    end = await run_to_end(replace(demo(), run_as_user=1000))
    assert end.code == 127
    assert "libpython3.11.so.1.0" in end.log_tail
    older = "ghcr.io/huggingface/text-generation-inference:3.0.1"
    async with serving(replace(demo(), run_as_user=1000, image=older)) as up:
        assert await _status(up, "/health") == 200


async def test_a_read_only_root_needs_a_writable_working_directory() -> None:
    container = replace(demo(), read_only_root=True)
    scratch = Volume("/tmp")
    end = await run_to_end(container)
    assert "Read-only file system" in end.log_tail
    end = await run_to_end(replace(container, volumes=(*container.volumes, scratch)))
    assert end.log_tail.endswith("Error: WebserverFailed")
    working = replace(container, volumes=(*container.volumes, scratch), working_dir="/tmp")
    async with serving(working) as up:
        assert await _status(up, "/health") == 200


async def test_no_more_shards_than_cards() -> None:
    end = await run_to_end(spec("--model-id", "huggyllama/llama-7b", "--num-shard", "2"))
    assert end.code == 1
    assert "Each process is one gpu" in end.log_tail


async def test_small_shared_memory_is_a_bus_error() -> None:
    container = spec("--model-id", "huggyllama/llama-7b", "--num-shard", "2", gpu=A100, gpus=2)
    end = await run_to_end(replace(container, shm_bytes=64 << 20))
    assert end.code == 1
    assert "signal 7" in end.log_tail
