"""What the scaler decides, as a table, as a page each, as a picture, and as JSON. Pure.

Decides words, colours and glyphs; the arithmetic is shown as `status.scaling` tells it. Refuses to
know how a decision is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_operator.cli.replicas import picture
from llm_operator.cli.view import Object, Seen, age, grid_of

_GOOD, _BUSY, _BAD = "green", "yellow", "red"
_METRICS = {"Complete": _GOOD, "Partial": _BUSY, "Missing": _BAD}
_WITHOUT_MESSAGE = 110
"""A narrower terminal has no room for sentences in a table."""


def table(deployments: Iterable[Seen], now: datetime, width: int = 160) -> Table:
    """All that are autoscaled, a line each."""
    shown = sorted(deployments, key=lambda seen: (seen.namespace, seen.name))
    left_out = {"MESSAGE"} if width < _WITHOUT_MESSAGE else set()
    if len({seen.namespace for seen in shown}) < 2:
        left_out.add("NAMESPACE")
    rows = [_cells(seen, now) for seen in shown]
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in rows[0] if rows else ():
        if title not in left_out:
            fixed = title != "MESSAGE"
            side: Any = "right" if title == "AGE" else "left"
            view.add_column(title, no_wrap=fixed, overflow="ellipsis", justify=side)
    for row in rows:
        view.add_row(*(cell for title, cell in row.items() if title not in left_out))
    return view


def page(seen: Seen, now: datetime, width: int = 160) -> RenderableType:
    """One of them: the last decision with its arithmetic, those before, and a picture."""
    scaling = seen.scaling
    head = Text.assemble(
        (f"{seen.namespace}/{seen.name}", "bold"),
        f"  {_mode(seen)}  ",
        (f"{replicas(seen)} replica{'' if replicas(seen) == '1' else 's'}", "bold"),
        f"  {_bounds(seen)}  ",
        (str(seen.spec["model"]["id"]), "dim"),
    )
    parts: list[RenderableType] = [head]
    if condition := seen.conditions.get("ScalingActive"):
        active = condition["status"] == "True"
        said = f"{condition['reason']}: {condition['message']}"
        mark = Text("● " if active else "○ ", _GOOD if active else _BUSY)
        parts.append(Padding(mark.append(said, ""), (0, 2)))
    if last := scaling.get("lastDecision"):
        parts += [_heading("Last decision"), _decision(last, now)]
        if last.get("terms"):
            parts += [_heading("Arithmetic"), _arithmetic(last["terms"])]
    else:
        parts.append(Padding(Text("nothing is decided yet", "dim"), (0, 2)))
    if decisions := scaling.get("decisions"):
        title = "Replicas wanted" if scaling.get("mode") == "Auto" else "Replicas advised"
        drawn = picture(_steps(decisions), now.timestamp(), width - 4)
        parts += [_heading(title), Padding(drawn, (0, 2))]
        parts += [_heading("Decisions"), _history(decisions, now)]
    return Group(*parts)


def as_json(seen: Seen) -> dict[str, Any]:
    """What programs read: `status.scaling` as it is, and of what."""
    return {"namespace": seen.namespace, "name": seen.name, **seen.scaling}


def replicas(seen: Seen) -> str:
    """Replicas that serve, where to they are going, and what is only advised: `2 -> 3`."""
    ready, wanted = int(seen.status.get("readyReplicas") or 0), seen.replicas
    text = str(ready) if ready == wanted else f"{ready} -> {wanted}"
    advised = seen.scaling.get("desiredReplicas", wanted)
    return text if advised == wanted else f"{text}, advised {advised}"


def _cells(seen: Seen, now: datetime) -> dict[str, str | Text]:
    last = seen.scaling.get("lastDecision") or {}
    metrics = last.get("metrics", "-")
    return {
        "NAMESPACE": seen.namespace,
        "NAME": Text(seen.name, "bold"),
        "MODE": _mode(seen),
        "REPLICAS": replicas(seen),
        "BOUNDS": _bounds(seen),
        "METRICS": Text(metrics, _METRICS.get(metrics, "")),
        "DECISION": last.get("reason", "-"),
        "AGE": age(last.get("time"), now),
        "MESSAGE": last.get("message", ""),
    }


def _mode(seen: Seen) -> Text:
    """Auto, Advise, Aside, or that the operator has said nothing yet."""
    mode = str(seen.scaling.get("mode", "NotSeenYet"))
    return Text(mode, _GOOD if mode == "Auto" else _BUSY)


def _bounds(seen: Seen) -> str:
    """Fewest and most replicas: as the operator reads them, else as they are written."""
    wish = seen.spec["autoscaling"]
    low = seen.scaling.get("minReplicas", wish.get("minReplicas", 1))
    return f"{low}..{seen.scaling.get('maxReplicas', wish['maxReplicas'])}"


def _decision(last: Object, now: datetime) -> RenderableType:
    metrics = last["metrics"]
    grid = grid_of("left", "left")
    grid.add_row(
        Text(f"{age(last['time'], now)} ago", "dim"),
        Text.assemble(
            (_change(last), "bold"),
            f"  {last['reason']}, metrics ",
            (metrics.lower(), _METRICS.get(metrics, "")),
        ),
    )
    grid.add_row("", last["message"])
    for title, key in (("why not more", "whyNotMore"), ("why not less", "whyNotLess")):
        if said := last.get(key):
            grid.add_row(Text(title, "dim"), said)
    return Padding(grid, (0, 2))


def _arithmetic(terms: Iterable[Object]) -> RenderableType:
    grid = grid_of("left", "right", "left")
    for term in terms:
        grid.add_row(term["name"], term["value"], Text(term.get("note") or "", "dim"))
    return Padding(grid, (0, 2))


def _history(decisions: Iterable[Object], now: datetime) -> RenderableType:
    grid = grid_of("right", "left", "left", "left", "left")
    for one in decisions:
        metrics = one["metrics"]
        moved = one["previous"] != one["replicas"]
        grid.add_row(
            Text(age(one["time"], now), "dim"),
            Text(_change(one), "bold" if moved else "dim"),
            one["reason"],
            Text(metrics, _METRICS.get(metrics, "")),
            Text(one["message"], "" if moved else "dim"),
        )
    return Padding(grid, (0, 2))


def _change(decision: Object) -> str:
    before, after = decision["previous"], decision["replicas"]
    return f"{before} -> {after}" if before != after else str(after)


def _steps(decisions: Sequence[Object]) -> list[tuple[float, int]]:
    """When there were how many: from the oldest decision that is kept, oldest first."""
    return [
        (datetime.fromisoformat(one["time"]).timestamp(), one["replicas"])
        for one in reversed(decisions)
    ]


def _heading(title: str) -> Text:
    return Text(f"\n{title}", "bold")
