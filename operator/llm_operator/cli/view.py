"""LLMDeployments as tables, as a page each, and as JSON. Pure: objects and `now` in, a view out.

Decides words, colours and bars. Sizes are decimal (GB), as the planner's are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_operator.facts.cluster import PodFact
from llm_operator.planning.cards import gpu_of, short_name

Object = Mapping[str, Any]

# What fills a card, in the order of the bar: name, glyph (it must also read in a pipe), style.
_PARTS = (("weights", "█", "blue"), ("overhead", "▓", "yellow"), ("KV cache", "▒", "green"))
_FREE = "·"
_GOOD, _BUSY, _BAD = "green", "yellow", "red"


@dataclass(frozen=True)
class Seen:
    """An LLMDeployment as the API server gives it, and its pods."""

    deployment: Object
    pods: tuple[PodFact, ...]

    @property
    def name(self) -> str:
        return str(self.deployment["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.deployment["metadata"]["namespace"])

    @property
    def spec(self) -> Object:
        return self.deployment["spec"]  # type: ignore[no-any-return]

    @property
    def status(self) -> Object:
        return self.deployment.get("status") or {}

    @property
    def plan(self) -> Object:
        return self.status.get("plan") or {}

    @property
    def scaling(self) -> Object:
        """What status tells of the scaler; empty where there is none, or it said nothing yet."""
        return (self.status.get("scaling") or {}) if self.autoscaled else {}

    @property
    def autoscaled(self) -> bool:
        """Whether the spec asks for replicas that follow the load."""
        return bool(self.spec.get("autoscaling"))

    @property
    def replicas(self) -> int:
        """Replicas wanted: the scaler's where its word counts, else the user's."""
        if self.scaling.get("mode") == "Auto":
            return int(self.scaling["desiredReplicas"])
        return int(self.spec.get("replicas", 1))

    @property
    def conditions(self) -> dict[str, Object]:
        return {condition["type"]: condition for condition in self.status.get("conditions", ())}

    @property
    def observed(self) -> bool:
        """Whether the status is about the spec as it is now."""
        generation = self.deployment["metadata"].get("generation")
        return bool(self.status.get("observedGeneration", -1) == generation)

    @property
    def ready(self) -> bool:
        """Whether what the spec asks for now is there, in full."""
        return self.observed and self.conditions.get("Ready", {}).get("status") == "True"

    @property
    def stalled(self) -> bool:
        """Whether only somebody's change can help."""
        return self.observed and "Stalled" in self.conditions

    @property
    def reason(self) -> str:
        if not self.observed:
            return "NotSeenYet"
        return str(self.conditions.get("Ready", {}).get("reason", "Unknown"))

    @property
    def style(self) -> str:
        return _GOOD if self.ready else _BAD if self.stalled else _BUSY


def table(deployments: Iterable[Seen], now: datetime, width: int = 160) -> Table:
    """All of them, a line each. Where `width` cells are too few, the model goes, then the bar."""
    shown = sorted(deployments, key=lambda seen: (seen.namespace, seen.name))
    cells = [_cells(seen, now) for seen in shown]
    left_out = {"MODEL", "EACH GPU"} if width < 90 else {"MODEL"} if width < 110 else set()
    if len({seen.namespace for seen in shown}) < 2:
        left_out.add("NAMESPACE")
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in cells[0] if cells else ():
        if title not in left_out:
            # A column that may wrap is the first to shrink; a model's name has no place to wrap at.
            justify: Literal["left", "right"] = "right" if title in ("READY", "AGE") else "left"
            fixed = title != "MODEL"
            view.add_column(title, no_wrap=fixed, overflow="ellipsis", justify=justify)
    for row in cells:
        view.add_row(*(cell for title, cell in row.items() if title not in left_out))
    return view


def page(seen: Seen, now: datetime) -> RenderableType:
    """One of them, with everything that tells why it is as it is."""
    head = Text.assemble(
        (f"{seen.namespace}/{seen.name}", "bold"),
        ("  ", ""),
        (seen.reason, f"bold {seen.style}"),
        f"  {seen.status.get('ready', '-')} ready  ",
        (f"{seen.spec['model']['id']}", "dim"),
    )
    parts: list[RenderableType] = [head, _conditions(seen, now)]
    if seen.plan:
        parts += [_heading("Plan"), _plan(seen)]
    if seen.scaling:
        parts += [_heading("Scaling"), _scaling(seen, now)]
    if revisions := seen.status.get("revisions"):
        parts += [_heading("Revisions"), _revisions(revisions, now)]
    parts += [_heading("Pods"), _pods(seen, now)]
    if endpoint := seen.status.get("endpoint"):
        parts += [_heading("Endpoint"), Padding(Text(endpoint), (0, 2))]
    return Group(*parts)


def as_json(seen: Seen) -> dict[str, Any]:
    """What programs read: the status as it is, with the pods."""
    return {
        "namespace": seen.namespace,
        "name": seen.name,
        "model": seen.spec["model"]["id"],
        "isReady": seen.ready,
        "isStalled": seen.stalled,
        "reason": seen.reason,
        **seen.status,
        "pods": [asdict(pod) for pod in seen.pods],
    }


def memory_bar(plan: Object, width: int) -> Text | None:
    """One card of the replica as a bar of `width` cells: weights, overhead, KV cache, free."""
    shares = memory_shares(plan)
    if shares is None:
        return None
    total, amounts = shares
    bar, drawn, reached = Text(), 0, 0
    for (_, glyph, style), amount in zip(_PARTS, amounts, strict=True):
        reached += amount
        end = min(width, round(width * reached / total))
        bar.append(glyph * (end - drawn), style)
        drawn = max(drawn, end)
    return bar.append(_FREE * (width - drawn), "dim")


def memory_shares(plan: Object) -> tuple[int, tuple[int, int, int]] | None:
    """Bytes of one card, and of its weights, overhead and KV cache; None without figures."""
    if not plan.get("weightBytesPerGPU") or not plan.get("budgetBytesPerGPU"):
        return None
    weights, overhead = plan["weightBytesPerGPU"], plan.get("overheadBytesPerGPU", 0)
    budget = plan["budgetBytesPerGPU"]
    card = gpu_of(plan.get("gpu") or "")
    total = card.memory_bytes if card else budget
    return total, (weights, overhead, max(0, budget - weights - overhead))


def rejected_degrees(rejected: Iterable[tuple[int, str]]) -> Iterable[str]:
    """Lines for tensor-parallel degrees that cannot be; those with the same reason together."""
    alike: dict[str, list[tuple[int, str]]] = {}
    for degree, reason in rejected:
        alike.setdefault(re.sub(rf"\b{degree}\b", "N", reason), []).append((degree, reason))
    for group in alike.values():
        degrees = ", ".join(str(degree) for degree, _ in group)
        yield f"not on {degrees} GPU{'' if degrees == '1' else 's'}: {group[0][1]}"


def gb(amount: float) -> str:
    """Bytes as decimal GB."""
    return f"{amount / 1e9:.1f} GB"


def age(timestamp: str | None, now: datetime) -> str:
    """How long ago, in the one or two units that matter, as kubectl writes it."""
    if not timestamp:
        return "-"
    seconds = max(0, int((now - datetime.fromisoformat(timestamp)).total_seconds()))
    for unit, size, limit in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172800)):
        if seconds < limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86400}d"


def _cells(seen: Seen, now: datetime) -> dict[str, str | Text]:
    return {
        "NAMESPACE": seen.namespace,
        "NAME": Text(seen.name, "bold"),
        "MODEL": str(seen.spec["model"]["id"]).rpartition("/")[2],
        "QUANT": _quantization(seen),
        "GPUS": _gpus(seen),
        "EACH GPU": memory_bar(seen.plan, 16) or Text("-", "dim"),
        "READY": str(seen.status.get("ready", "-")),
        "REASON": Text(seen.reason, seen.style),
        "AGE": age(seen.deployment["metadata"].get("creationTimestamp"), now),
    }


def _quantization(seen: Seen) -> str:
    planned = seen.plan.get("quantization")
    if planned is None:
        return str((seen.spec.get("quantization") or {}).get("method", "-"))
    return "none" if planned["method"] == "none" else f"{planned['method']} {planned['bits']}b"


def _gpus(seen: Seen) -> str:
    degree, product = seen.plan.get("tensorParallel"), seen.plan.get("gpu")
    if not degree:
        return "-"
    return f"{seen.replicas} x {degree} {short_name(product) if product else 'GPU'}"


def _heading(title: str) -> Text:
    return Text(f"\n{title}", "bold")


def grid_of(*justify: Literal["left", "right"]) -> Table:
    """A table without lines and titles, its columns set to these sides."""
    grid = Table.grid(padding=(0, 2))
    for side in justify:
        grid.add_column(justify=side)
    return grid


def _conditions(seen: Seen, now: datetime) -> RenderableType:
    grid = grid_of("left", "left", "left", "left", "right")
    for kind, condition in seen.conditions.items():
        holds = condition["status"] == "True"
        normal = kind in ("Ready", "Available", "ScalingActive")
        style = _GOOD if holds and normal else _BAD if kind == "Stalled" else _BUSY
        grid.add_row(
            Text("●" if holds else "○", style),
            kind,
            Text(condition["reason"], style),
            condition["message"],
            Text(age(condition["lastTransitionTime"], now), "dim"),
        )
    if not seen.observed:
        grid.add_row(Text("○", _BUSY), "", "", "the operator has not looked at this spec yet", "")
    return Padding(grid, (0, 2))


def _plan(seen: Seen) -> RenderableType:
    plan = seen.plan
    lines: list[RenderableType] = [Text(plan["message"])]
    shares = memory_shares(plan)
    if shares and (bar := memory_bar(plan, 48)):
        total, amounts = shares
        lines.append(Text.assemble("each GPU  ", bar, f"  {gb(total)}"))
        lines.append(_legend(plan, total, amounts))
    rejected = ((one["tensorParallel"], one["reason"]) for one in plan.get("rejected", ()))
    lines += [Text(line, "dim") for line in rejected_degrees(rejected)]
    lines += [Text(f"way out: {way}", _BUSY) for way in plan.get("waysOut", ())]
    lines += [Text(f"note: {warning}", _BUSY) for warning in plan.get("warnings", ())]
    return Padding(Group(*lines), (0, 2))


def _legend(plan: Object, total: int, amounts: Sequence[int]) -> Table:
    tokens, sequences = plan.get("kvCacheTokens", 0), plan.get("maxConcurrentSequences", 0)
    notes = (
        f"of {gb(plan['weightBytes'])}, {plan.get('weightSource', 'computed')}",
        "CUDA, communication, activations",
        f"{tokens:,} tokens: {sequences:,} requests of {plan.get('maxTotalTokens', 0):,} at once",
    )
    grid = grid_of("left", "left", "right", "left")
    for (name, glyph, style), amount, note in zip(_PARTS, amounts, notes, strict=True):
        grid.add_row(Text(glyph, style), name, gb(amount), Text(note, "dim"))
    grid.add_row(Text(_FREE, "dim"), "kept free", gb(max(0, total - sum(amounts))), "")
    return grid


def _scaling(seen: Seen, now: datetime) -> RenderableType:
    """Whose word counts, between which bounds, and the last decision in a sentence."""
    scaling = seen.scaling
    mode, number = scaling["mode"], scaling["desiredReplicas"]
    word = {"Auto": "wanted", "Advise": "advised"}.get(mode, "set by others")
    bounds = f"{scaling['minReplicas']}..{scaling['maxReplicas']}"
    lines = [Text(f"{mode}: {number} of {bounds} replicas {word}", "" if mode == "Auto" else _BUSY)]
    if last := scaling.get("lastDecision"):
        lines.append(Text(f"{age(last['time'], now)} ago, {last['reason']}: {last['message']}"))
    way = f"llm-operator scaling {seen.name} -n {seen.namespace}"
    lines.append(Text(f"why, with the arithmetic: {way}", "dim"))
    return Padding(Group(*lines), (0, 2))


def _revisions(revisions: Iterable[Object], now: datetime) -> RenderableType:
    grid = grid_of("left", "left", "right", "left", "right", "left")
    for revision in revisions:
        state = str(revision.get("state", ""))
        failed = revision.get("reason")
        style = _BAD if failed else _GOOD if revision["wanted"] else "dim"
        grid.add_row(
            Text("●" if revision["wanted"] else "○", style),
            revision["name"],
            f"{revision.get('serving', revision['ready'])}/{revision['replicas']}",
            Text(f"{state} ({failed})" if failed else state, style),
            Text(age(revision.get("created"), now), "dim"),
            Text(revision.get("message") or revision.get("image") or "", "dim"),
        )
    return Padding(grid, (0, 2))


def _pods(seen: Seen, now: datetime) -> RenderableType:
    causes = {failure.get("pod"): failure for failure in seen.status.get("failures", ())}
    grid = grid_of("left", "left", "left", "left", "right", "left")
    for pod in sorted(seen.pods, key=lambda pod: pod.name):
        cause = causes.pop(pod.name, None)
        word, style = pod_state(pod)
        grid.add_row(
            Text("●" if pod.ready else "○", style),
            pod.name,
            Text(cause["reason"] if cause else word, _BAD if cause else style),
            Text(pod.node or "no node", "dim"),
            Text(age(pod.created, now), "dim"),
            cause["message"] if cause else "",
        )
    for cause in causes.values():
        row = (Text("○", _BAD), cause.get("pod") or "-", Text(cause["reason"], _BAD))
        grid.add_row(*row, "", "", cause["message"])
    return Padding(grid if grid.row_count else Text("none", "dim"), (0, 2))


def pod_state(pod: PodFact) -> tuple[str, str]:
    """What a pod is doing, in a word, and the word's style."""
    if pod.deleting:
        return "terminating", "dim"
    if pod.ready:
        return "ready", _GOOD
    container = pod.container
    if container and container.state == "waiting":
        return container.reason or "waiting", _BUSY
    if container and container.state == "running":
        return ("not ready" if container.started else "loading"), _BUSY
    return pod.phase.lower(), _BUSY
