"""What the rollout commands ask the API server and write to it, with the rights of their user.

Writes are those of a person: under a field manager of their own, and refused if the object has
changed since it was read. Nothing is ever written to a child.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from llm_operator.api import names
from llm_operator.cli import rollout_edit, rollout_view, status
from llm_operator.cli.console import CommandError, console
from llm_operator.cli.rollout_seen import (
    Rollout,
    as_asked_now,
    described,
    inputs,
    next_release,
    rollout,
)
from llm_operator.cli.target import find
from llm_operator.kube.client import ApiError, KubeClient
from llm_operator.kube.resources import LLM_DEPLOYMENT, OURS, REPLICA_SET

MANAGER = "llm-operator-cli"
_EVERY_S = 0.5
_PATIENCE_S = 30.0
"""How long an API server may be away before a followed rollout is given up."""

_ATTEMPTS = 5

Edit = Callable[[Rollout], rollout_edit.Patch]


@dataclass(frozen=True)
class Which:
    """The LLMDeployment that is meant, and where."""

    name: str
    namespace: str | None
    kubeconfig: Path | None


def show(which: Which, *, follow: bool, timeout: float | None) -> bool:
    """Show how the rollout goes, until it has ended if `follow`; whether it has not failed."""
    return asyncio.run(_follow(which, follow, timeout))


def history(which: Which, revision: str | None, *, as_json: bool) -> None:
    """List the revisions, or print what one of them says."""
    of = asyncio.run(_read_once(which))
    if as_json:
        print(json.dumps(rollout_view.as_json(of), indent=2))
    elif revision is not None:
        sys.stdout.write(of.find(revision).text)
    else:
        console().print(rollout_view.history(of, datetime.now(UTC)))


def diff(which: Which, revision: str | None, to: str | None) -> None:
    """Print what differs between a revision and another, or the spec as it is now."""
    of = asyncio.run(_read_once(which))
    before = of.find(revision)
    after, title = (of.find(to).text, of.find(to).name) if to else (as_asked_now(of), "spec")
    old = before.text
    if to is None and (of.wanted is None or of.wanted.record is None):
        old = described(before.record.user, None) if before.record else ""
    text = rollout_view.diff(old, after, (before.name, title))
    console().print(text if text else f"{before.name} and {title} are the same", end="")


def pause(which: Which, *, pause: bool, print_patch: bool) -> None:
    """Stop where the rollout is, or go on."""
    done = "paused" if pause else "resumed"
    _edit(which, lambda of: rollout_edit.paused(of.spec, pause), done, print_patch=print_patch)


def promote(which: Which, *, full: bool) -> None:
    """Let a canary go past the step where it waits, or past all of them."""

    def edit(of: Rollout) -> rollout_edit.Patch:
        released, wanted = next_release(of), of.wanted
        assert wanted is not None  # else there was nothing to release
        metadata = of.seen.deployment["metadata"]
        return rollout_edit.promoted(metadata, wanted.name, None if full else released)

    _edit(which, edit, "promoted")


def retry(which: Which) -> None:
    """Have the failed revision tried again."""

    def edit(of: Rollout) -> rollout_edit.Patch:
        if of.wanted is None or of.wanted.failed is None:
            raise CommandError(f"{which.name}: the revision that the spec asks for has not failed")
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        return rollout_edit.retry(of.seen.deployment["metadata"], moment)

    _edit(which, edit, "will be tried again")


def undo(which: Which, revision: str | None, *, print_patch: bool) -> None:
    """Write the spec of an older revision, as its user had set it."""
    target: list[str] = []

    def edit(of: Rollout) -> rollout_edit.Patch:
        to = of.find(revision)
        if to.record is None:
            raise CommandError(f"revision {to.name} has lost its record: write the spec by hand")
        target.append(to.name)
        wanted = rollout_edit.spec_of(to.record.user, of.spec)
        if inputs(wanted) == inputs(of.spec):
            return []
        return rollout_edit.to_spec(of.spec, wanted)

    _edit(which, edit, lambda: f"goes back to {target[0]}", print_patch=print_patch)


def _edit(
    which: Which, edit: Edit, done: str | Callable[[], str], *, print_patch: bool = False
) -> None:
    """Write what `edit` makes of the object, or print it."""
    of, patch = asyncio.run(_write(which, edit, dry=print_patch))
    metadata = of.seen.deployment["metadata"]
    if print_patch:
        where = f"-n {of.seen.namespace} --type=json"
        sys.stdout.write(
            f"# kubectl patch llmd {of.seen.name} {where} --patch-file FILE\n"
            f"{rollout_view.patch(patch)}"
        )
        return
    to = console(stderr=True)
    word = done if isinstance(done, str) else done()
    said = f"{of.seen.name} {word}" if patch else f"{of.seen.name}: nothing to change"
    to.print(said, markup=False)
    tool = rollout_edit.git_tool(metadata)
    if patch and tool and any(operation["path"].startswith("/spec") for operation in patch):
        to.print(f"[yellow]{tool} may write it back: change it in Git, too (--print-patch)[/]")


async def _write(which: Which, edit: Edit, *, dry: bool) -> tuple[Rollout, rollout_edit.Patch]:
    """What was read at last, and what was made of it. The operator's own status writes are
    conflicts, too, so it is read and edited anew a few times."""
    client = await status.connect(find(which.kubeconfig))
    try:
        for left in reversed(range(_ATTEMPTS)):
            of = await _read(client, which)
            patch = edit(of)
            if dry or not patch:
                break
            try:
                await _send(client, of, patch)
                break
            except ApiError as error:
                if error.code != 409 or not left:
                    raise CommandError(f"not written: {_why(error)}") from None
        return of, patch
    finally:
        await client.close()


async def _send(client: KubeClient, of: Rollout, patch: rollout_edit.Patch) -> None:
    version = of.seen.deployment["metadata"]["resourceVersion"]
    await client.request(
        "PATCH",
        LLM_DEPLOYMENT.path(of.seen.namespace, of.seen.name),
        params={"fieldManager": MANAGER, "fieldValidation": "Strict"},
        body=rollout_edit.guarded(patch, version),
        content_type="application/json-patch+json",
    )


def _why(error: ApiError) -> str:
    """The API server's refusal, without the whole object that it may repeat."""
    if unknown := re.search(r'unknown field "([\w.]+)"', error.message):
        return (
            f"this cluster's custom resource has no {unknown[1]}: bring it up to date,"
            " `llm-operator crd | kubectl apply --server-side -f -`"
        )
    return error.message[:1000]


async def _read_once(which: Which) -> Rollout:
    client = await status.connect(find(which.kubeconfig))
    try:
        return await _read(client, which)
    finally:
        await client.close()


async def _read(client: KubeClient, which: Which) -> Rollout:
    """The object, its pods and its ReplicaSets. Raises CommandError if it is not to be found."""
    seen = status.only(await status.fetch(client, which.namespace, which.name), which.name)
    own = replace(REPLICA_SET, label_selector=f"{OURS},{names.LABEL_DEPLOYMENT}={which.name}")
    return rollout(seen, await status.list_all(client, own, seen.namespace))


async def _follow(which: Which, follow: bool, timeout: float | None) -> bool:
    """Read again and again until the rollout has ended, and show each change."""
    client = await status.connect(find(which.kubeconfig))
    out = console()
    deadline = time.monotonic() + timeout if timeout else None
    shown = _Shown(out, live=follow and out.is_terminal)
    try:
        with shown:
            while True:
                of = await _patiently(client, which)
                shown.tell(of)
                if not follow:
                    return True
                if of.ended:
                    break
                if deadline and time.monotonic() > deadline:
                    raise CommandError(f"not ready after {timeout:g} s: {rollout_view.line(of)}")
                await asyncio.sleep(_EVERY_S)
    finally:
        await client.close()
    out.print(rollout_view.outcome(of), markup=False, soft_wrap=True)
    return of.seen.ready


async def _patiently(client: KubeClient, which: Which) -> Rollout:
    """Read, even while the API server is away for a moment."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await _read(client, which)
        except ApiError as error:
            if error.code != 0 or time.monotonic() > until:
                raise
            await asyncio.sleep(_EVERY_S)


class _Shown:
    """On a terminal a picture that changes; in a pipe a line whenever something has happened."""

    def __init__(self, out: Console, *, live: bool) -> None:
        self._out = out
        self._live = Live(console=out, auto_refresh=False) if live else None
        self._last = ""

    def __enter__(self) -> None:
        self._context: AbstractContextManager[Any] = self._live or nullcontext()
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def tell(self, of: Rollout) -> None:
        if self._live is not None:
            self._live.update(rollout_view.progress(of, datetime.now(UTC)), refresh=True)
        elif self._out.is_terminal:
            self._out.print(rollout_view.progress(of, datetime.now(UTC)))
        elif (line := rollout_view.line(of)) != self._last:
            self._last = line
            self._out.print(line, markup=False, soft_wrap=True)
