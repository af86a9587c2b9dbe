"""Why a pod does not serve: each way of failing has one name, and no engine output is repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.status_samples import RUNNING, STARTED, crashed, pending, pod, ready

from llm_operator.api.status import Reason
from llm_operator.status.causes import PATIENCE, Failure, creation_refused, failure, unschedulable

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "tgi_launcher_cases.json").read_text()
)
SHARD = "Shard complete standard error output:\n\nTraceback (most recent call last):\n"
GONE = "\nError: ShardCannotStart"
HUB = "Download encountered an error:\nTraceback (most recent call last):\n"
NO_FILES = "\nError: DownloadError"

# What the engine said last -> the cause, whether it is for good, what the message must name.
LAST_WORDS: dict[str, tuple[str, Reason, bool, str]] = {
    "warm-up": (
        'Error: Backend(Warmup(Generation("Not enough memory to handle 4096 prefill tokens. You'
        ' need to decrease `--max-batch-prefill-tokens`")))\nWebserver Crashed\n'
        "Error: WebserverFailed",
        Reason.GPU_OUT_OF_MEMORY,
        False,
        "4096",
    ),
    "cache too small": (
        "Error: Backend(NotEnoughMemory(Not enough memory to handle `max_total_tokens=131072`)"
        "\nError: WebserverFailed",
        Reason.GPU_OUT_OF_MEMORY,
        False,
        "131072",
    ),
    "cache too small, said otherwise": (
        "Not enough memory to handle max_total_tokens: 8192",
        Reason.GPU_OUT_OF_MEMORY,
        False,
        "8192",
    ),
    "out of memory while loading": (
        f"{SHARD}torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB."
        f"{GONE}",
        Reason.GPU_OUT_OF_MEMORY,
        False,
        "GPU",
    ),
    "newer torch": (
        f"{SHARD}torch.OutOfMemoryError: CUDA out of memory.{GONE}",
        Reason.GPU_OUT_OF_MEMORY,
        False,
        "GPU",
    ),
    "gated": (
        f"{HUB}huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: Root=1)\n\n"
        "Cannot access gated repo for url https://huggingface.co/x. Your request is awaiting"
        f" review.{NO_FILES}",
        Reason.HUB_UNAUTHORIZED,
        True,
        "tokenSecretRef",
    ),
    "no token": (
        f"{HUB}requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url{NO_FILES}",
        Reason.HUB_UNAUTHORIZED,
        True,
        "tokenSecretRef",
    ),
    "without a token the Hub calls a private model not found": (
        f"{HUB}huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: x)\n"
        "Repository Not Found for url: https://huggingface.co/api/models/a/b. Please make sure you"
        f" specified the correct `repo_id`.{NO_FILES}",
        Reason.HUB_UNAUTHORIZED,
        True,
        "model.id",
    ),
    "the launcher's own download": (
        'Error: RequestError("HTTP status client error (401 Unauthorized) for url (https://x)")',
        Reason.HUB_UNAUTHORIZED,
        True,
        "401",
    ),
    "no such model": (
        f"{HUB}huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.{NO_FILES}",
        Reason.HUB_NOT_FOUND,
        True,
        "model.id",
    ),
    "no such revision": (
        f"{HUB}huggingface_hub.errors.RevisionNotFoundError: 404 Client Error. (Request ID: x)\n"
        f"Invalid rev id: v9{NO_FILES}",
        Reason.HUB_NOT_FOUND,
        True,
        "model.revision",
    ),
    "no such model, said by the launcher": (
        'Error: RequestError("HTTP status client error (404 Not Found) for url (https://x)")',
        Reason.HUB_NOT_FOUND,
        True,
        "404",
    ),
    "too many downloads": (
        f"{HUB}huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url:"
        f" https://huggingface.co/api/models/a/b{NO_FILES}",
        Reason.HUB_RATE_LIMITED,
        False,
        "cache.claimName",
    ),
    "no way to the Hub": (
        f"{HUB}huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to"
        " locate the file on the Hub and we cannot find the requested files in the local cache."
        f" Please check your connection and try again.{NO_FILES}",
        Reason.DOWNLOAD_FAILED,
        False,
        "reachable",
    ),
    "no name resolution": (
        f"{HUB}requests.exceptions.ConnectionError: (MaxRetryError: Name or service not known)"
        f"{NO_FILES}",
        Reason.DOWNLOAD_FAILED,
        False,
        "reachable",
    ),
    "no room": (
        f"{HUB}OSError: No space left on device (os error 28){NO_FILES}",
        Reason.DOWNLOAD_FAILED,
        False,
        "full",
    ),
    "small /dev/shm": (
        "Shard process was signaled to shutdown with signal 7 rank=0\nError: ShardFailed",
        Reason.SHARD_FAILED,
        False,
        "/dev/shm",
    ),
    "a shard is killed": (
        "Shard process was signaled to shutdown with signal 9 rank=1\nError: ShardCannotStart",
        Reason.HOST_OUT_OF_MEMORY,
        False,
        "limits.memory",
    ),
    "too few cards": (
        f"{SHARD}AssertionError: Each process is one gpu{GONE}",
        Reason.SHARD_FAILED,
        False,
        "GPUs",
    ),
    "a shard fails": (
        f"{SHARD}RuntimeError: NCCL Error 1\nError: ShardFailed",
        Reason.SHARD_FAILED,
        False,
        "shard",
    ),
    "a shard dies at work": ("Error: ShardDisconnected", Reason.SHARD_FAILED, False, "shard"),
    "nothing known": ("thread 'main' panicked at src/main.rs", Reason.CRASHED, False, "code 1"),
    "nothing at all": ("", Reason.CRASHED, False, "code 1"),
}


def cause(**changes: Any) -> Failure:
    found = failure(pod(**changes))
    assert found is not None
    return found


@pytest.mark.parametrize("name", LAST_WORDS)
def test_the_engines_last_words_have_one_meaning(name: str) -> None:
    message, reason, stuck, names = LAST_WORDS[name]
    found = cause(container=crashed(message))
    assert (found.reason, found.stuck) == (reason, stuck)
    assert names in found.message
    assert (found.pod, found.restarts) == ("p1", 1)


@pytest.mark.parametrize(
    "case", [case for case in CASES if "error" in case], ids=lambda case: case["error"][:60]
)
def test_every_refusal_of_the_launcher_is_understood(case: dict[str, Any]) -> None:
    said, code = case["error"], case["exit_code"]
    found = cause(container=crashed(f"Error: {said}" if code == 1 else f"error: {said}", code))
    expected = {101: Reason.CRASHED, 2: Reason.ARGUMENTS_REFUSED, 1: Reason.ARGUMENTS_REFUSED}
    if "NotEnoughCUDADevices" in said:
        assert found.reason is Reason.SHARD_FAILED
    else:
        assert found.reason is expected[code]
        assert found.stuck == (code != 101)


def test_a_cause_that_may_pass_counts_as_stuck_after_some_restarts() -> None:
    for name in ("warm-up", "a shard fails", "nothing at all", "too many downloads"):
        message = LAST_WORDS[name][0]
        assert not cause(container=crashed(message, restarts=PATIENCE - 1)).stuck
        assert cause(container=crashed(message, restarts=PATIENCE)).stuck


def test_host_memory_is_not_gpu_memory() -> None:
    killed = crashed("CUDA out of memory", 137, ended_reason="OOMKilled")
    assert cause(container=killed).reason is Reason.HOST_OUT_OF_MEMORY


def test_a_crash_is_named_while_the_next_try_loads() -> None:
    trying = crashed(LAST_WORDS["warm-up"][0], state="running", reason="")
    assert cause(container=trying).reason is Reason.GPU_OUT_OF_MEMORY


def test_a_crash_of_long_ago_does_not_explain_what_is_wrong_now() -> None:
    serving = crashed(
        LAST_WORDS["warm-up"][0], state="running", reason="", started=True, served=True
    )
    assert cause(container=serving).reason is Reason.PROBE_FAILED


@pytest.mark.parametrize(
    "healthy",
    [
        ready(),
        pod(),
        pod(deleting=True, container=crashed("CUDA out of memory")),
        pending(),
        pod(container=None, phase="Pending"),
        ready(container=crashed("CUDA out of memory", state="running", reason="", started=True)),
        pod(container=replace(STARTED, served=False)),
        # Ended in a way that says nothing; its ReplicaSet makes another.
        pod(phase="Failed", container=None),
    ],
    ids=[
        "ready",
        "loads",
        "leaves",
        "not yet scheduled",
        "no container yet",
        "recovered",
        "about to serve",
        "ended",
    ],
)
def test_what_is_merely_on_its_way_has_no_cause(healthy: Any) -> None:
    assert failure(healthy) is None


@pytest.mark.parametrize(
    ("changes", "reason", "stuck"),
    [
        ({"container": STARTED}, Reason.PROBE_FAILED, False),
        ({"container": crashed("", 0, restarts=1)}, Reason.PROBE_FAILED, False),
        ({"container": crashed("", 0, restarts=PATIENCE)}, Reason.PROBE_FAILED, True),
        ({"phase": "Failed", "reason": "Evicted"}, Reason.EVICTED, False),
        (
            {"phase": "Failed", "reason": "UnexpectedAdmissionError"},
            Reason.ADMISSION_REFUSED,
            False,
        ),
        ({"container": crashed("", code=7)}, Reason.CRASHED, False),
    ],
)
def test_other_ways_of_not_serving(changes: dict[str, Any], reason: Reason, stuck: bool) -> None:
    found = cause(**changes)
    assert (found.reason, found.stuck) == (reason, stuck)


@pytest.mark.parametrize(
    ("waiting_for", "reason", "stuck"),
    [
        ("ErrImagePull", Reason.IMAGE_PULL_FAILED, False),
        ("ImagePullBackOff", Reason.IMAGE_PULL_FAILED, True),
        ("InvalidImageName", Reason.IMAGE_PULL_FAILED, True),
        ("CreateContainerConfigError", Reason.CONFIG_MISSING, False),
    ],
)
def test_containers_that_never_started(waiting_for: str, reason: Reason, stuck: bool) -> None:
    waits = crashed("", restarts=0, reason=waiting_for, exit_code=None, ended_reason="")
    found = cause(container=waits)
    assert (found.reason, found.stuck) == (reason, stuck)


def test_a_container_that_is_being_made_is_on_its_way() -> None:
    for reason in ("ContainerCreating", "PodInitializing", ""):
        waits = crashed("", restarts=0, reason=reason, exit_code=None, ended_reason="")
        assert failure(pod(container=waits)) is None


def test_a_lost_node_explains_everything_on_it() -> None:
    for lost in (pod(node="n9"), pod(node="n9", container=STARTED)):
        found = failure(lost, {"n9"})
        assert found is not None
        assert (found.reason, "n9" in found.message) == (Reason.NODE_LOST, True)
    assert failure(pod(node="n1"), {"n9"}) is None


@pytest.mark.parametrize(
    ("said", "reason", "kept"),
    [
        (
            "0/9 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 8"
            " Insufficient nvidia.com/gpu. preemption: 0/9 nodes are available: 8 No preemption"
            " victims found for incoming pod.",
            Reason.WAITING_FOR_GPU,
            "8 Insufficient nvidia.com/gpu",
        ),
        (
            "0/5 nodes are available: 5 node(s) didn't match Pod's node affinity/selector.",
            Reason.WAITING_FOR_GPU,
            "5 node(s)",
        ),
        (
            "0/3 nodes are available: 3 Insufficient nvidia.com/mig-3g.40gb.",
            Reason.WAITING_FOR_GPU,
            "mig-3g.40gb",
        ),
        (
            'persistentvolumeclaim "cache" not found. preemption: not helpful',
            Reason.CLAIM_PENDING,
            '"cache" not found',
        ),
        (
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            Reason.CLAIM_PENDING,
            "unbound",
        ),
        (
            "0/3 nodes are available: 3 Insufficient cpu.",
            Reason.UNSCHEDULABLE,
            "3 Insufficient cpu",
        ),
    ],
)
def test_what_the_scheduler_means(said: str, reason: Reason, kept: str) -> None:
    found = unschedulable("p1", said)
    assert found.reason is reason
    assert not found.stuck
    assert kept in found.message
    assert "preemption" not in found.message
    assert failure(pending(said)) == found


def test_a_quota_is_named_with_its_numbers() -> None:
    found = creation_refused(
        'pods "llama-abc-x" is forbidden: exceeded quota: gpus, requested:'
        " requests.nvidia.com/gpu=4, used: requests.nvidia.com/gpu=8, limited:"
        " requests.nvidia.com/gpu=8"
    )
    assert (found.pod, found.reason) == (None, Reason.QUOTA_EXCEEDED)
    assert found.message.startswith("exceeded quota: gpus, requested: requests.nvidia.com/gpu=4")


@pytest.mark.parametrize(
    "said",
    [
        'pods "llama-abc-x" is forbidden: violates PodSecurity "restricted": runAsNonRoot',
        'admission webhook "w.example" denied the request: violates PodSecurity "restricted"',
    ],
)
def test_an_admission_refusal_keeps_what_was_refused(said: str) -> None:
    found = creation_refused(said)
    assert found.reason is Reason.ADMISSION_REFUSED
    assert 'violates PodSecurity "restricted"' in found.message
    assert "llama-abc-x" not in found.message


SECRETS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=8)


@given(
    secret=SECRETS,
    words=st.sampled_from(sorted(LAST_WORDS)),
    place=st.floats(0, 1),
    code=st.sampled_from([0, 1, 2, 101, 137]),
    restarts=st.integers(0, 5),
    state=st.sampled_from(["waiting", "terminated", "running"]),
)
def test_no_word_of_the_engine_is_repeated(
    secret: str, words: str, place: float, code: int, restarts: int, state: str
) -> None:
    """An engine may print its API key anywhere, in the middle of an error too."""
    said = LAST_WORDS[words][0]
    cut = int(place * len(said))
    message = f'Args {{ api_key: Some("hf_{secret}") }}\n{said[:cut]} hf_{secret} {said[cut:]}'
    found = failure(pod(container=crashed(message, code, restarts, state=state)))
    if found is not None:
        assert f"hf_{secret}" not in found.message
        assert secret not in found.message


def test_all_reasons_of_causes_fit_a_condition() -> None:
    for message, *_ in LAST_WORDS.values():
        found = cause(container=crashed(message))
        assert found.message
        assert len(found.message) < 1024
    assert failure(pod(container=RUNNING)) is None
