"""The real API server refuses bad manifests, and says which field is wrong and what to do.

Each file in tests/data/bad_manifests says in comments what is expected of it:
`# field:` what the answer names; `# says:` the way out that it offers;
`# pruned:` a field that strict validation refuses and that is otherwise never stored.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.cluster.local import LocalCluster

ROOT = Path(__file__).parents[2]
BAD = ROOT / "tests" / "data" / "bad_manifests"
FILES = sorted(BAD.rglob("*.yaml"))

EVERYTHING = """
apiVersion: llm-operator.dev/v1alpha1
kind: LLMDeployment
metadata: {name: everything}
spec:
  model:
    id: acme/llama
    revision: refs/pr/7
    cache: {claimName: models}
    tokenSecretRef: {name: hub-token, key: token}
    trustRemoteCode: true
    config: {model_type: llama, rope_scaling: {factor: 8.0}, quantization_config: {bits: 4}}
  quantization: {method: gptq, kvCacheDtype: fp8_e4m3fn}
  runtime:
    name: tgi
    image: registry.example.com:5000/tgi:3.3.7@sha256:0123456789abcdef
    version: 3.3.7
    imagePullSecrets: [registry]
    cudaGraphs: [1, 2, 4]
    speculate: 2
    prefillChunking: false
    prefixCaching: true
    attention: flashinfer
    cudaMemoryFraction: 0.9
    maxBatchPrefillTokens: 8192
    maxBatchSize: 64
    maxWaitingTokens: 20
    waitingServedRatio: 0.3
    payloadLimit: 4000000
    ropeScaling: {type: dynamic, factor: 2.0}
    enablePrefillLogprobs: true
    env:
    - {name: NCCL_DEBUG, value: INFO}
    - {name: LOG_LEVEL, value: debug}
  gpu: {resourceName: nvidia.com/gpu, products: [NVIDIA-A100-SXM4-80GB, NVIDIA-H100-80GB-HBM3]}
  parallelism: {tensor: 2}
  limits: {maxInputTokens: 4096, maxTotalTokens: 8192, maxConcurrentRequests: 32}
  replicas: 0
  autoscaling:
    minReplicas: 1
    maxReplicas: 8
    mode: Advise
    metric: {waitingRequests: 0.5, runningShare: 70, queueSeconds: 1.5}
    behavior:
      scaleUp:
        {stabilizationWindowSeconds: 0, maxChange: 100%, periodSeconds: 30, tolerance: 5}
      scaleDown:
        {stabilizationWindowSeconds: 600, maxChange: 1, periodSeconds: 120, tolerance: 20}
    schedule:
    - {start: 0 8 * * 1-5, end: 30 18 * * MON-FRI, timeZone: Europe/Berlin, minReplicas: 2}
    - {start: '*/10 0-6,22 1 jan,jul *', end: 5 7 L * *, timeZone: Etc/GMT+3, minReplicas: 8}
    coldStartAwareness: false
  resources:
    requests: {cpu: 4, memory: 64Gi}
    limits: {cpu: "8", memory: 65536Mi, ephemeral-storage: 100Gi}
  scheduling:
    nodeSelector: {topology.kubernetes.io/zone: a}
    tolerations:
    - {key: gpu, operator: Equal, value: "yes", effect: NoExecute, tolerationSeconds: 60}
    - {operator: Exists}
    affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}
    priorityClassName: models
    topologySpread:
    - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}
    - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}
  rollout:
    strategy: Canary
    maxSurge: auto
    maxUnavailable: 25%
    minAvailable: 2
    onNoSpareGPU: Recreate
    progressDeadlineSeconds: 3600
    onFailure: Hold
    history: 0
    paused: false
    canary:
      steps:
      - {replicas: 1}
      - {replicas: 25%, pauseSeconds: 600}
      - {replicas: 2}
      - {replicas: 50%}
      analysis:
        minRequests: 20
        windowSeconds: 60
        maxErrorRateIncrease: 0.5
        maxLatencyIncrease: 30
        maxTokenTimeIncrease: 20
        timeoutSeconds: 600
    drainSeconds: 300
    acceptance:
      timeoutSeconds: 30
      prompts:
      - prompt: The capital of France is
        maxTokens: 32
        expect: {contains: Paris, notEmpty: true, maxLatencySeconds: 20.5, minTokensPerSecond: 20}
"""

GOOD_PARTS = [
    "runtime: {version: 2.4.0}\nquantization: {kvCacheDtype: fp8_e5m2}",
    "runtime: {version: 3.2.1}\nrollout: {drainSeconds: 90}",
    "runtime: {image: 'registry.example.com/tgi@sha256:01', version: 3.3.7}",
    "runtime: {image: 'registry.example.com/tgi:3.3.7'}",
    "runtime: {dtype: bfloat16}\nquantization: {method: none}",
    "parallelism: {tensor: auto}\nquantization: {method: exl2}",
    "gpu: {resourceName: nvidia.com/mig-3g.40gb}",
    "gpu: {memory: 24Gi}\nscheduling: {nodeSelector: {accelerator: small}}",
    "runtime: {loraAdapters: [{id: acme/adapter, revision: v2}]}",
    "runtime: {apiKeySecretRef: {name: api-key, key: key}}",
    "rollout: {maxSurge: 0}",
    "rollout: {maxSurge: 0%, maxUnavailable: 1}",
    "rollout: {maxSurge: 100%, maxUnavailable: 0}",
    "rollout: {strategy: Recreate, onFailure: Rollback, paused: true}",
    "rollout: {acceptance: {prompts: [{prompt: Hello}]}}",
    "rollout: {strategy: Canary, canary: {steps: [{replicas: 2}], analysis: {}}}",
    "rollout: {strategy: Canary, canary: {steps: [{replicas: 9}, {replicas: 1%}, {replicas: 9}]}}",
    "autoscaling: {maxReplicas: 1}",
    "autoscaling: {minReplicas: 3, maxReplicas: 3}",
    "replicas: 9\nautoscaling: {maxReplicas: 4}",
    "autoscaling: {maxReplicas: 4, metric: {waitingRequests: 0, runningShare: 0}}",
    "autoscaling: {maxReplicas: 9, behavior: {scaleUp: {maxChange: 1000}}}",
    "autoscaling: {maxReplicas: 9, behavior: {scaleDown: {maxChange: 1%}}}",
]


def _expected(file: Path, word: str) -> str | None:
    found = re.search(rf"^# {word}: (.*)$", file.read_text(), re.MULTILINE)
    return found[1] if found else None


@pytest.fixture(scope="module")
def answers(cluster: LocalCluster) -> dict[str, str]:
    """What the API server answers to each bad manifest, by path: one kubectl for all of them."""
    command: list[str | Path] = [cluster.program("kubectl"), f"--kubeconfig={cluster.kubeconfig}"]
    command += ["create", "--dry-run=server", "--recursive", "--filename=."]
    done = subprocess.run(command, cwd=BAD, text=True, capture_output=True)
    parts = re.split(r'^Error from server \((?:\w+)\): error when creating "(.*?)": ', done.stderr,
                     flags=re.MULTILINE)  # fmt: skip
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(BAD)))
def test_a_bad_manifest_is_refused(answers: dict[str, str], file: Path) -> None:
    answer = answers.get(str(file.relative_to(BAD)), "accepted")
    for word in ("field", "says", "pruned"):
        assert (_expected(file, word) or "") in answer


def test_most_refusals_name_the_field_and_the_way_out() -> None:
    helpful = [file for file in FILES if _expected(file, "field") and _expected(file, "says")]
    assert len(FILES) >= 20
    assert len(helpful) >= 15


def test_what_the_schema_does_not_know_is_never_stored(
    cluster: LocalCluster, namespace: str
) -> None:
    """An API client need not be strict: unknown fields are then dropped, not kept."""
    for file in FILES:
        if (pruned := _expected(file, "pruned")) is None:
            continue
        stored = json.loads(
            cluster.kubectl(
                "create", "--dry-run=server", "--validate=false", f"--filename={file}",
                f"--namespace={namespace}", "--output=json",
            )
        )  # fmt: skip
        assert pruned.rpartition(".")[2] not in json.dumps(stored["spec"]), file


def test_every_field_at_once_is_accepted(cluster: LocalCluster, namespace: str) -> None:
    where = f"--namespace={namespace}"
    cluster.kubectl("create", "--filename=-", where, "--validate=strict", input=EVERYTHING)
    stored = json.loads(cluster.kubectl("get", "llmd", "everything", where, "--output=json"))
    assert stored["spec"] == yaml.safe_load(EVERYTHING)["spec"]
    LLMDeploymentSpec.model_validate(stored["spec"])


@pytest.mark.parametrize("part", GOOD_PARTS)
def test_rules_refuse_no_more_than_they_say(
    cluster: LocalCluster, namespace: str, part: str
) -> None:
    manifest = {
        "apiVersion": "llm-operator.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "good"},
        "spec": {"model": {"id": "acme/llama"}} | yaml.safe_load(part),
    }
    cluster.kubectl(
        "create", "--dry-run=server", "--validate=strict", "--filename=-",
        f"--namespace={namespace}", input=json.dumps(manifest),
    )  # fmt: skip
