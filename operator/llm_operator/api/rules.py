"""What a schema cannot say: validation rules in CEL, each with a message that names the way out.

Decides combinations of fields that can never work, whatever the model, the cards and the cluster.
Refuses to judge what needs a model's shape or a card (the planner does), and what an image's tag
says (the runtime does).

A path names a place in the schema: `[]` is an item of a list, `{}` a value of a map.
"""

from __future__ import annotations

from typing import Final

from llm_operator.api.cel import Rule, is_set, not_both, older, since, value
from llm_operator.api.env import ALLOWED_ENV, ALLOWED_ENV_PREFIX, REFUSED_ENV_PART
from llm_operator.api.names import MAX_NAME_LENGTH

_EMPTY = "''"
_METHOD = value("quantization.method", "'auto'")
# An int-or-string is dynamic: comparing it with a number is an error where it is a string.
_SHARDED = (
    f"({is_set('parallelism.tensor')} && type(self.parallelism.tensor) == int"
    " && int(self.parallelism.tensor) > 1)"
)
_NAME = (
    "metadata.name also names a Service: small letters, digits and dashes, a letter first, at most"
    f" {MAX_NAME_LENGTH} characters"
)
_SUGGESTED_NAME = (
    "((self.metadata.name.matches('^[0-9]') ? 'm-' : '') + self.metadata.name.replace('.', '-'))"
    f".find('^.{{0,{MAX_NAME_LENGTH - 1}}}[a-z0-9]')"
)
_ENV_FAMILY = (
    f"(self.name.startsWith('{ALLOWED_ENV_PREFIX}') && !self.name.contains('{REFUSED_ENV_PART}'))"
)
_LABEL_KEY = r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_ENV_NAMES = f"{ALLOWED_ENV_PREFIX}*, {', '.join(ALLOWED_ENV)}"
_ENV_WAY_OUT = "use the fields of spec.runtime for options, model.tokenSecretRef for a token"
_VERSION_TAG = r":[0-9]+\.[0-9]+\.[0-9]+(-[a-z0-9-]+)?(@|$)"


def _resource_names(field: str) -> Rule:
    return Rule(
        "self.all(key, key in ['cpu', 'memory', 'ephemeral-storage'])",
        f"resources.{field} may name cpu, memory and ephemeral-storage only: GPUs come from the"
        " plan, set their number with parallelism.tensor",
    )


RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "": (
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
            f" && size(self.metadata.name) <= {MAX_NAME_LENGTH}",
            _NAME,
            ".metadata.name",
            f"'{_NAME}; use for example ' + {_SUGGESTED_NAME}",
        ),
    ),
    "spec": (
        Rule(
            f"!{is_set('runtime.dtype')} || {_METHOD} in ['auto', 'none']"
            f" || {_METHOD}.startsWith('bitsandbytes')",
            "runtime.dtype is for unquantized weights, the engine refuses it with"
            " quantization.method: leave out runtime.dtype or set quantization.method to none",
            ".runtime.dtype",
        ),
        Rule(
            f"{_METHOD} != 'exl2' || !{_SHARDED}",
            "exl2 weights cannot be sharded: set parallelism.tensor to 1 or choose another"
            " quantization.method, for example gptq or awq",
            ".parallelism.tensor",
        ),
        Rule(
            "!has(self.gpu) || !has(self.gpu.resourceName)"
            f" || !self.gpu.resourceName.contains('/mig-') || !{_SHARDED}",
            "MIG slices cannot serve one model together: set parallelism.tensor to 1 or ask for"
            " whole cards with gpu.resourceName nvidia.com/gpu",
            ".parallelism.tensor",
        ),
        Rule(
            f"{_METHOD} != 'exl2' && {_METHOD} != 'bitsandbytes'"
            f" || size({value('runtime.cudaGraphs', '[]')}) == 0",
            "runtime.cudaGraphs has no effect with exl2 or bitsandbytes: leave it out",
            ".runtime.cudaGraphs",
        ),
        Rule(
            f"!{is_set('quantization.kvCacheDtype')}"
            f" || {value('runtime.attention', _EMPTY)} != 'flashdecoding'",
            "quantization.kvCacheDtype does not work with flashdecoding: set runtime.attention to"
            " flashinfer or leave it out",
            ".runtime.attention",
        ),
        Rule(
            f"{value('runtime.prefillChunking', 'true')}"
            f" || {value('runtime.maxBatchPrefillTokens', '10000000')}"
            f" >= {value('limits.maxInputTokens', '1')}",
            "runtime.maxBatchPrefillTokens must be at least limits.maxInputTokens where"
            " runtime.prefillChunking is false: raise it or leave it out",
            ".runtime.maxBatchPrefillTokens",
        ),
        Rule(
            f"!{is_set('gpu.memory')} || {is_set('gpu.products')}"
            f" || size({value('scheduling.nodeSelector', '{}')}) > 0"
            f" || {is_set('scheduling.affinity')}",
            "gpu.memory says how large the cards are, not where: name their nodes in"
            " scheduling.nodeSelector or scheduling.affinity, or use gpu.products",
            ".gpu.memory",
        ),
        Rule(
            f"!{is_set('runtime.version')} || !{older('2.4.0')}",
            "runtime.version must be 2.4.0 or newer, older engines cut requests when a pod goes and"
            " have no fp8 KV cache: use 3.3.7 or leave it out",
            ".runtime.version",
        ),
        since("2.4.1", "quantization.method", f"{_METHOD} == 'compressed-tensors'"),
        since("2.4.1", "runtime.payloadLimit"),
        since("3.0.0", "runtime.enablePrefillLogprobs"),
        since("3.0.0", "runtime.prefillChunking"),
        Rule(
            f"{value('rollout.drainSeconds', '0')} <= 90 || !{is_set('runtime.version')}"
            f" || !{older('3.2.2')}",
            "rollout.drainSeconds above 90 needs an engine of version 3.2.2 or newer, older ones"
            " always stop after 90 s: raise runtime.version or set rollout.drainSeconds to 90",
            ".rollout.drainSeconds",
        ),
    ),
    "spec.model": (
        Rule(
            f"!has(self.path) || {is_set('cache.claimName')}",
            "model.path is a directory inside a claim: name the claim in model.cache.claimName, or"
            " leave out model.path to download the model",
            ".path",
        ),
        not_both(
            "revision",
            "path",
            "model.revision means nothing for files that are already at model.path: leave out one"
            " of the two",
        ),
        not_both(
            "tokenSecretRef",
            "path",
            "model.tokenSecretRef is for downloads, with model.path there are none: leave out one"
            " of the two",
        ),
    ),
    "spec.model.path": (
        Rule(
            "!self.startsWith('/') && !self.split('/').exists(part, part in ['', '.', '..'])",
            "model.path is relative to the root of the claim and stays inside it: write"
            " models/llama, not /models/llama, without . or .. parts",
        ),
    ),
    "spec.model.config": (
        Rule(
            "has(self.model_type)",
            "model.config must be the whole content of the model's config.json: model_type is"
            " missing, copy the file's fields as they are",
        ),
    ),
    "spec.parallelism.tensor": (
        Rule(
            "type(self) == int ? int(self) >= 1 && int(self) <= 64 : string(self) == 'auto'",
            "parallelism.tensor must be a number from 1 to 64 without quotes, or auto to have it"
            " planned",
        ),
    ),
    "spec.limits": (
        Rule(
            "!has(self.maxInputTokens) || !has(self.maxTotalTokens)"
            " || self.maxInputTokens < self.maxTotalTokens",
            "limits.maxInputTokens must be less than limits.maxTotalTokens, which counts the"
            " answer too: lower maxInputTokens or raise maxTotalTokens",
            ".maxInputTokens",
        ),
    ),
    "spec.gpu": (
        not_both(
            "memory",
            "products",
            "gpu.memory is for cards without GPU-feature labels, gpu.products for cards that have"
            " them: leave out one of the two",
        ),
    ),
    "spec.gpu.memory": (
        Rule(
            "isQuantity(string(self)) && !quantity(string(self)).isLessThan(quantity('1Gi'))"
            " && !quantity(string(self)).isGreaterThan(quantity('1Ti'))",
            "gpu.memory is the memory of one card, from 1Gi to 1Ti: write it with its unit, for"
            " example 24Gi",
        ),
    ),
    "spec.runtime": (
        Rule(
            f"!has(self.image) || has(self.version) || self.image.find(r'{_VERSION_TAG}') != ''",
            "runtime.image has no tag such as 3.3.7, so the engine's version is unknown: add"
            " runtime.version or use a tag that says it",
            ".image",
        ),
        Rule(
            "!has(self.image) || !has(self.version)"
            f" || self.image.find(r'{_VERSION_TAG}') == ''"
            " || self.image.contains(':' + self.version)",
            "runtime.version differs from the tag of runtime.image: leave out runtime.version or"
            " make both the same",
            ".version",
        ),
        Rule(
            "!(has(self.speculate) && has(self.prefillChunking) && self.prefillChunking)",
            "runtime.speculate turns prefill chunking off: leave out runtime.prefillChunking or"
            " runtime.speculate",
            ".prefillChunking",
        ),
        Rule(
            "!(has(self.prefixCaching) && self.prefixCaching)"
            f" || ({value('attention', _EMPTY)} != 'paged'"
            f" && size({value('loraAdapters', '[]')}) == 0)",
            "runtime.prefixCaching does not work with paged attention or LoRA adapters: leave out"
            " runtime.prefixCaching",
            ".prefixCaching",
        ),
        Rule(
            f"size({value('cudaGraphs', '[]')}) == 0 || size({value('loraAdapters', '[]')}) == 0",
            "runtime.cudaGraphs has no effect with runtime.loraAdapters: leave it out",
            ".cudaGraphs",
        ),
        Rule(
            "!(has(self.prefillChunking) && self.prefillChunking)"
            " || !(has(self.maxBatchSize) || has(self.maxWaitingTokens)"
            " || has(self.waitingServedRatio))",
            "runtime.maxBatchSize, maxWaitingTokens and waitingServedRatio have no effect while"
            " prefill is chunked: set runtime.prefillChunking to false or leave them out",
            ".prefillChunking",
        ),
    ),
    "spec.runtime.env[]": (
        Rule(
            f"{_ENV_FAMILY} || self.name in [{', '.join(map(repr, ALLOWED_ENV))}]",
            f"runtime.env may set only {_ENV_NAMES}; {_ENV_WAY_OUT}",
            ".name",
            f"'runtime.env may not set ' + self.name + ', only {_ENV_NAMES}; {_ENV_WAY_OUT}'",
        ),
    ),
    "spec.resources": (
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(key,"
            " !(key in self.limits) || !quantity(string(self.requests[key]))"
            ".isGreaterThan(quantity(string(self.limits[key]))))",
            "resources.requests must not exceed resources.limits: lower the request or raise the"
            " limit of the same name",
            ".requests",
        ),
    ),
    "spec.resources.requests": (_resource_names("requests"),),
    "spec.resources.limits": (_resource_names("limits"),),
    "spec.scheduling": (
        Rule(
            "!has(self.priorityClassName) || !self.priorityClassName.startsWith('system-')",
            "scheduling.priorityClassName system-* is for the cluster's own components: make a"
            " PriorityClass for models and name that",
            ".priorityClassName",
        ),
    ),
    "spec.scheduling.nodeSelector": (
        Rule(
            "!('nvidia.com/gpu.product' in self)",
            "scheduling.nodeSelector must not choose the card, the plan would not know of it: write"
            " nvidia.com/gpu.product as gpu.products",
        ),
        Rule(
            f"self.all(key, key.matches(r'{_LABEL_KEY}'))",
            "scheduling.nodeSelector has a key that no node label can have: use a label as kubectl"
            " get nodes --show-labels prints it",
        ),
    ),
    "spec.scheduling.tolerations[]": (
        Rule(
            "!(has(self.operator) && self.operator == 'Exists' && has(self.value)"
            " && self.value != '')",
            "scheduling.tolerations: operator Exists takes no value: leave out value or use"
            " operator Equal",
            ".value",
        ),
        Rule(
            "(has(self.key) && self.key != '')"
            " || (has(self.operator) && self.operator == 'Exists')",
            "scheduling.tolerations: without a key the operator must be Exists, which tolerates"
            " every taint: add key or set operator to Exists",
            ".key",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "scheduling.tolerations: tolerationSeconds works with effect NoExecute only: set effect"
            " to NoExecute or leave out tolerationSeconds",
            ".tolerationSeconds",
        ),
    ),
}

_MODEL_ID = "a Hub id, owner/name or name (letters, digits, dot, dash, underscore)"
_SECRET = (
    "must be the name of a Secret in the object's own namespace, without a namespace before it"
)
_QUANTITY = "must be a number with or without a unit, for example 500m, 8 or 64Gi"

PATTERN_MESSAGES: Final[dict[str, str]] = {
    "spec.model.id": f"model.id must be {_MODEL_ID}: a directory belongs in model.path",
    "spec.model.revision": "model.revision must be a branch, tag or commit: letters, digits and"
    " . _ / -, for example main",
    "spec.model.path": "model.path may have letters, digits and . _ / - only: rename the directory"
    " in the claim",
    "spec.model.cache.claimName": "model.cache.claimName must be the name of a"
    " PersistentVolumeClaim in the object's own namespace, without a namespace before it",
    "spec.model.tokenSecretRef.name": f"model.tokenSecretRef.name {_SECRET}",
    "spec.model.tokenSecretRef.key": "model.tokenSecretRef.key must be a key of that Secret:"
    " letters, digits and . _ -, for example token",
    "spec.runtime.apiKeySecretRef.name": f"runtime.apiKeySecretRef.name {_SECRET}",
    "spec.runtime.apiKeySecretRef.key": "runtime.apiKeySecretRef.key must be a key of that Secret:"
    " letters, digits and . _ -, for example api-key",
    "spec.runtime.image": "runtime.image must be an image reference without spaces, for example"
    " registry.example.com/text-generation-inference:3.3.7",
    "spec.runtime.version": "runtime.version must be the engine's full version, three numbers: use"
    " for example 3.3.7",
    "spec.runtime.imagePullSecrets[]": f"runtime.imagePullSecrets {_SECRET}",
    "spec.runtime.loraAdapters[].id": f"runtime.loraAdapters.id must be {_MODEL_ID}: a revision"
    " goes into the field revision, not behind an @",
    "spec.runtime.loraAdapters[].revision": "runtime.loraAdapters.revision must be a branch, tag or"
    " commit: letters, digits and . _ / -",
    "spec.gpu.resourceName": "gpu.resourceName must be an extended resource of NVIDIA cards: leave"
    " it out for nvidia.com/gpu, or use for example nvidia.com/mig-3g.40gb",
    "spec.gpu.products[]": "gpu.products must be values of the node label nvidia.com/gpu.product:"
    " copy them from kubectl get nodes -L nvidia.com/gpu.product",
    "spec.gpu.memory": "gpu.memory must be a quantity with its unit: use for example 24Gi",
    "spec.resources.requests{}": f"resources.requests {_QUANTITY}",
    "spec.resources.limits{}": f"resources.limits {_QUANTITY}",
    "spec.scheduling.priorityClassName": "scheduling.priorityClassName must be the name of a"
    " PriorityClass: see kubectl get priorityclasses",
}
