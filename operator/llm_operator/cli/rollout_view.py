"""A rollout as bars, as a table of revisions, as a diff, and as one line for a pipe. Pure.

Decides words, colours and glyphs; the glyphs alone must tell it, for a pipe has no colours.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import yaml
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_operator.cli.rollout_seen import Revision, Rollout, changed, difference
from llm_operator.cli.view import Seen, age, grid_of, pod_state

_WIDTH = 20
_SERVING, _COMING, _DRAINING, _MISSING = "█", "▒", "░", "·"
_GOOD, _BUSY, _BAD = "green", "yellow", "red"


def progress(of: Rollout, now: datetime) -> RenderableType:
    """Where the rollout is: a bar per revision, and the pods that do not serve."""
    seen = of.seen
    head = Text.assemble(
        (f"{seen.namespace}/{seen.name}", "bold"),
        ("  ", ""),
        (seen.reason, f"bold {seen.style}"),
        f"  {seen.status.get('ready', '-')} ready",
    )
    parts: list[RenderableType] = [head]
    if message := _message(seen):
        parts.append(Padding(Text(message), (0, 2)))
    shown = [r for r in of.revisions if r.wanted or r.replicas or r.pods]
    full = max([seen.replicas, 1, *(len(r.pods) for r in shown)])
    grid = grid_of("left", "left", "left", "left", "left")
    for revision in shown:
        style = _BAD if revision.failed is not None else _GOOD if revision.wanted else "dim"
        grid.add_row(
            Text("●" if revision.wanted else "○", style),
            revision.name,
            bar(revision, full),
            counts(revision),
            Text(state(revision).partition(" ")[0], style),  # the reason is at the head
        )
    parts.append(Padding(grid, (1, 2, 0, 2)))
    if waiting := _waiting(of, now):
        parts.append(Padding(waiting, (1, 2, 0, 2)))
    return Group(*parts)


def bar(revision: Revision, full: int) -> Text:
    """Pods of one revision as parts of `full` pods: serving, coming, draining, missing."""
    missing = max(0, revision.replicas - revision.ready - revision.coming)
    parts = (
        (_SERVING, _GOOD if revision.wanted else "blue", revision.ready),
        (_COMING, _BUSY, revision.coming),
        (_DRAINING, "dim", revision.draining),
        (_MISSING, "dim", missing),
    )
    drawn, reached, text = 0, 0, Text()
    for glyph, style, count in parts:
        reached += count
        end = min(_WIDTH, round(_WIDTH * reached / full))
        text.append(glyph * (end - drawn), style)
        drawn = max(drawn, end)
    return text.append(" " * (_WIDTH - drawn))


def counts(revision: Revision) -> str:
    """The same in words."""
    words = [f"{revision.ready}/{revision.replicas} ready"]
    words += [f"{revision.coming} coming"] if revision.coming else []
    words += [f"{revision.draining} draining"] if revision.draining else []
    return ", ".join(words)


def state(revision: Revision) -> str:
    """What the revision is to its deployment, in a word."""
    if told := revision.told.get("state"):
        reason = revision.told.get("reason")
        return f"{told} ({reason})" if reason and reason != told else str(told)
    if revision.failed is not None:
        return f"Failed ({revision.failed.get('reason', 'Unknown')})"
    if revision.ready:
        return "Serving"
    if revision.replicas:
        return "Loading"
    return "Draining" if revision.draining else "Retired"


def line(of: Rollout) -> str:
    """Where the rollout is, in one line; two equal lines mean that nothing has happened."""
    seen = of.seen
    parts = [
        f"{'new' if revision.wanted else 'old'} {revision.name} {counts(revision)}"
        for revision in of.revisions
        if revision.wanted or revision.replicas or revision.pods
    ]
    return f"{seen.name}: {seen.reason}: {'; '.join(parts)}"


def outcome(of: Rollout) -> str:
    """What there is to say at the end."""
    wanted = of.wanted.name if of.wanted else "none"
    if of.seen.ready:
        return f"{of.seen.name} is ready: all {of.seen.status.get('ready')} of revision {wanted}"
    return f"{of.seen.name} {of.seen.reason}: {_message(of.seen)}"


def history(of: Rollout, now: datetime) -> Table:
    """All revisions, the newest first, each with what it changed of the one before."""
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "REVISION", "AGE", "STATE", "PODS", "TP", "QUANT", "CHANGE"):
        view.add_column(title, justify="right" if title in ("AGE", "TP") else "left")
    for index, revision in enumerate(of.revisions):
        before = of.revisions[index + 1] if index + 1 < len(of.revisions) else None
        plan = revision.record.resolved.plan if revision.record else None
        view.add_row(
            Text("●" if revision.wanted else "○", _GOOD if revision.wanted else "dim"),
            revision.name,
            age(revision.created, now),
            Text(state(revision), _BAD if revision.failed is not None else ""),
            f"{revision.ready}/{revision.replicas}",
            str(plan.tensor_parallel) if plan else "?",
            plan.quantization.method if plan else "?",
            _change(before, revision),
        )
    return view


def as_json(of: Rollout) -> list[dict[str, Any]]:
    """The history for programs."""
    return [
        {
            "name": revision.name,
            "wanted": revision.wanted,
            "created": revision.created,
            "state": state(revision),
            "replicas": revision.replicas,
            "ready": revision.ready,
            "failed": revision.failed,
            "image": revision.record.resolved.image if revision.record else None,
            "commit": revision.record.resolved.commit if revision.record else None,
            "spec": revision.record.user if revision.record else None,
        }
        for revision in of.revisions
    ]


def diff(before: str, after: str, names: tuple[str, str]) -> Text:
    """A coloured unified diff of two YAML texts."""
    text = Text()
    for one in difference(before, after, names):
        style = {"+": _GOOD, "-": _BAD, "@": "cyan"}.get(one[:1], "")
        text.append(f"{one}\n", "bold" if one.startswith(("+++", "---")) else style)
    return text


def _message(seen: Seen) -> str:
    if not seen.observed:
        return "the operator has not looked at this spec yet"
    return str(seen.conditions.get("Ready", {}).get("message", ""))


def _change(before: Revision | None, revision: Revision) -> str:
    if before is None:
        return "the oldest that is kept"
    if before.record is None or revision.record is None:
        return "unknown: a record was lost"
    paths = list(changed(before.record.user, revision.record.user))
    return ", ".join(paths) or "nothing the user set"


def _waiting(of: Rollout, now: datetime) -> Table | None:
    """Pods that do not serve yet, and why."""
    causes = {failure.get("pod"): failure for failure in of.seen.status.get("failures", ())}
    grid = grid_of("left", "left", "right", "left")
    for revision in of.revisions:
        for pod in sorted(revision.pods, key=lambda pod: pod.name):
            if pod.ready or pod.deleting:
                continue
            cause = causes.get(pod.name)
            word, style = pod_state(pod)
            budget = revision.record.resolved.startup_seconds if revision.record else None
            patience = f"of at most {budget} s" if budget and not cause and pod.node else ""
            grid.add_row(
                pod.name,
                Text(cause["reason"] if cause else word, _BAD if cause else style),
                age(pod.created, now),
                Text(cause["message"] if cause else patience, "" if cause else "dim"),
            )
    return grid if grid.row_count else None


def patch(operations: Iterable[dict[str, Any]]) -> str:
    """A JSON patch as YAML, which kubectl and kustomize read."""
    return yaml.safe_dump(list(operations), sort_keys=False, allow_unicode=True)
