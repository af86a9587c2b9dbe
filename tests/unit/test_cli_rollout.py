"""What the rollout commands make of an object and its ReplicaSets: views, choices, patches."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from tests.unit import desired_inputs
from tests.unit import status_samples as samples

from llm_operator.api import names
from llm_operator.api.spec import LLMDeploymentSpec, user_inputs
from llm_operator.cli import rollout_edit as edit
from llm_operator.cli import rollout_view as view
from llm_operator.cli.console import CommandError
from llm_operator.cli.rollout_seen import Rollout, as_asked_now, changed, next_release, rollout
from llm_operator.cli.view import Seen
from llm_operator.desired.revision import Record, make_record, record_to_json
from llm_operator.facts.cluster import PodFact

Json = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
OLD = {"model": {"id": "acme/llama"}, "limits": {"maxTotalTokens": 4096}}
NEW = {"model": {"id": "acme/llama", "revision": "v2"}, "rollout": {"drainSeconds": 30}}


def record(user: Json) -> Record:
    spec = LLMDeploymentSpec.model_validate(user)
    return make_record("llama", user_inputs(spec), desired_inputs.resolved(spec))


def replica_set(name: str, created: int, replicas: int, user: Json | None, **marks: str) -> Json:
    annotations = dict(marks)
    if user is not None:
        annotations[names.ANNOTATION_RECORD] = record_to_json(replace(record(user), revision=name))
    return {
        "metadata": {
            "name": f"llama-{name}",
            "creationTimestamp": f"2026-01-01T11:{created:02}:00Z",
            "annotations": annotations,
            "ownerReferences": [{"uid": "u1", "controller": True}],
        },
        "spec": {"replicas": replicas},
    }


def pods(revision: str, ready: int = 0, coming: int = 0, draining: int = 0) -> list[PodFact]:
    kinds = [
        *[samples.ready(f"llama-{revision}-r{i}") for i in range(ready)],
        *[samples.pod(f"llama-{revision}-c{i}") for i in range(coming)],
        *[samples.ready(f"llama-{revision}-d{i}", deleting=True) for i in range(draining)],
    ]
    return [replace(pod, revision=revision) for pod in kinds]


def deployment(spec: Json, current: str = "new", **status: Any) -> Json:
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "Updating",
        "message": "1/3 replicas updated",
        "lastTransitionTime": "2026-01-01T11:59:00Z",
    }
    return {
        "metadata": {"name": "llama", "namespace": "default", "uid": "u1", "generation": 2},
        "spec": {"replicas": 3, **spec},
        "status": {
            "observedGeneration": 2,
            "ready": "3/3",
            "currentRevision": current,
            "conditions": [ready],
            **status,
        },
    }


def under_way(spec: Json | None = None, **status: Any) -> Rollout:
    """An upgrade in the middle: one new pod serves, one loads; of the old two serve, one drains."""
    sets = [replica_set("old", 1, 2, OLD), replica_set("new", 9, 2, NEW)]
    found = [*pods("new", ready=1, coming=1), *pods("old", ready=2, draining=1)]
    return rollout(Seen(deployment(spec or NEW, **status), tuple(found)), sets)


def text(renderable: RenderableType, width: int = 140) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def test_a_bar_has_a_part_for_serving_coming_draining_and_missing_pods() -> None:
    new, old = under_way().revisions
    assert view.bar(new, 4).plain == "█" * 5 + "▒" * 5 + " " * 10
    assert view.bar(old, 4).plain == "█" * 10 + "░" * 5 + " " * 5
    assert view.bar(replace(new, pods=()), 4).plain == "·" * 10 + " " * 10


def test_progress_shows_both_revisions_and_the_pods_that_do_not_serve() -> None:
    failures = [{"pod": "llama-new-c0", "reason": "WaitingForGPU", "message": "no GPU is free"}]
    shown = text(view.progress(under_way(failures=failures), NOW))
    assert "default/llama  Updating  3/3 ready" in shown
    assert "1/3 replicas updated" in shown
    new, old = (line for line in shown.splitlines() if "█" in line)
    assert new.split()[:2] == ["●", "new"]
    assert new.split("▒")[-1].split() == ["1/2", "ready,", "1", "coming", "Serving"]
    assert old.split()[:2] == ["○", "old"]
    assert "2/2 ready, 1 draining" in old
    (pod,) = (line for line in shown.splitlines() if "llama-new-c0" in line)
    assert "WaitingForGPU" in pod
    assert pod.endswith("no GPU is free")


def test_bars_are_as_long_as_the_scaler_wants_replicas() -> None:
    of = under_way(scaling={"mode": "Auto", "desiredReplicas": 10})
    dict(of.seen.deployment)["spec"]["autoscaling"] = {"maxReplicas": 10}
    old = next(line for line in text(view.progress(of, NOW)).splitlines() if "○" in line)
    assert old.count("█") == 4  # two of ten, of twenty cells


def test_a_loading_pod_is_shown_with_its_budget() -> None:
    assert "of at most " in text(view.progress(under_way(), NOW))


def test_a_line_changes_only_when_something_has_happened() -> None:
    of = under_way()
    assert view.line(of) == view.line(under_way())
    assert view.line(of) == (
        "llama: Updating: new new 1/2 ready, 1 coming; old old 2/2 ready, 1 draining"
    )


def test_what_status_says_of_a_revision_wins() -> None:
    told = [{"name": "new", "state": "Failed", "reason": "AcceptanceFailed"}]
    of = under_way(revisions=told)
    assert view.state(of.revisions[0]) == "Failed (AcceptanceFailed)"
    (line,) = (line for line in text(view.progress(of, NOW)).splitlines() if "●" in line)
    assert line.endswith("1/2 ready, 1 coming    Failed")


@pytest.mark.parametrize(
    ("replicas", "found", "word"),
    [
        (2, pods("new", coming=1), "Loading"),
        (1, pods("new", ready=1), "Serving"),
        (0, pods("new", draining=1), "Draining"),
        (0, [], "Retired"),
    ],
)
def test_before_status_says_it_the_pods_do(replicas: int, found: list[PodFact], word: str) -> None:
    sets = [replica_set("new", 9, replicas, NEW)]
    (revision,) = rollout(Seen(deployment(NEW), tuple(found)), sets).revisions
    assert view.state(revision) == word


def test_history_says_what_each_revision_has_changed() -> None:
    failed = {names.ANNOTATION_FAILED: json.dumps({"reason": "AcceptanceFailed"})}
    sets = [replica_set("old", 1, 3, OLD), replica_set("new", 9, 0, NEW, **failed)]
    of = rollout(Seen(deployment(NEW), tuple(pods("old", ready=3))), sets)
    titles, _, new, old = [line for line in text(view.history(of, NOW)).splitlines() if line]
    assert titles.split() == ["REVISION", "AGE", "STATE", "PODS", "TP", "QUANT", "CHANGE"]
    assert new.split() == [
        "●", "new", "51m", "Failed", "(AcceptanceFailed)", "0/0", "1", "none",
        "limits,", "model.revision,", "rollout",
    ]  # fmt: skip
    assert old.split()[:5] == ["○", "old", "59m", "Serving", "3/3"]
    told = view.as_json(of)
    assert [one["name"] for one in told] == ["new", "old"]
    assert told[0]["spec"] == NEW


def test_paths_of_what_has_changed() -> None:
    before = {"a": {"b": 1, "c": 2}, "d": [1], "e": 0}
    assert list(changed(before, {"a": {"b": 1, "c": 3}, "d": [1, 2], "f": 0})) == [
        "a.c", "d", "e", "f",
    ]  # fmt: skip


def test_a_diff_is_of_the_spec_and_of_what_was_made_of_it() -> None:
    of = under_way()
    shown = view.diff(of.find("old").text, as_asked_now(of), ("old", "spec")).plain
    assert "--- old\n+++ spec\n" in shown
    assert "+    revision: v2\n" in shown
    assert "-    maxTotalTokens: 4096\n" in shown
    assert "-  drainSeconds: 90\n" in shown  # resolved, though the user never said it


def test_a_spec_without_a_revision_yet_is_shown_as_the_user_wrote_it() -> None:
    of = under_way({**NEW, "quantization": {"method": "awq"}}, observedGeneration=1)
    assert of.wanted is None
    assert yaml.safe_load(as_asked_now(of)) == {"spec": {**NEW, "quantization": {"method": "awq"}}}


def test_previous_is_what_serves_most() -> None:
    sets = [replica_set(name, i, 1, OLD) for i, name in enumerate(("a", "b", "c"))]
    serving = (*pods("a", ready=1), *pods("b", ready=2), *pods("new", ready=3))
    of = rollout(Seen(deployment(NEW), serving), [*sets, replica_set("new", 9, 1, NEW)])
    assert of.previous is not None
    assert of.previous.name == "b"


def test_previous_is_else_the_newest_that_has_not_failed() -> None:
    sets = [
        replica_set("a", 1, 0, OLD),
        replica_set("b", 2, 0, OLD),
        replica_set("c", 3, 0, OLD, **{names.ANNOTATION_FAILED: "{}"}),
        replica_set("lost", 4, 0, None),
        replica_set("new", 9, 3, NEW),
    ]
    of = rollout(Seen(deployment(NEW), ()), sets)
    assert of.previous is not None
    assert of.previous.name == "b"


def test_previous_is_of_idle_ones_the_last_that_was_all_that_served() -> None:
    sets = [
        replica_set("a", 1, 0, OLD, **{names.ANNOTATION_COMPLETED: "2026-01-01T11:30:00Z"}),
        replica_set("b", 2, 0, OLD, **{names.ANNOTATION_COMPLETED: "2026-01-01T11:20:00Z"}),
        replica_set("never-done", 5, 0, OLD),
        replica_set("new", 9, 3, NEW),
    ]
    of = rollout(Seen(deployment(NEW), ()), sets)
    assert of.previous is not None
    assert of.previous.name == "a"


def test_a_failed_mark_that_cannot_be_read_is_still_a_mark() -> None:
    sets = [replica_set("new", 9, 3, NEW, **{names.ANNOTATION_FAILED: "?"})]
    of = rollout(Seen(deployment(NEW), ()), sets)
    assert of.wanted is not None
    assert of.wanted.failed == {}
    assert view.state(of.wanted) == "Failed (Unknown)"


@pytest.mark.parametrize(
    ("seen_then", "asked", "ended"), [(None, None, True), ("1", "1", True), ("1", "2", False)]
)
def test_a_stalled_rollout_has_not_ended_once_a_retry_is_asked_for(
    seen_then: str | None, asked: str | None, ended: bool
) -> None:
    mark = {names.ANNOTATION_FAILED: json.dumps({"reason": "Crashed", "retry": seen_then})}
    stalled = {"type": "Stalled", "status": "True", "reason": "RolledBack", "message": ""}
    body = deployment(NEW, conditions=[stalled])
    body["metadata"]["annotations"] = {names.ANNOTATION_RETRY: asked} if asked else {}
    assert rollout(Seen(body, ()), [replica_set("new", 9, 0, NEW, **mark)]).ended is ended


def test_foreign_replica_sets_are_left_out() -> None:
    foreign = replica_set("foreign", 9, 3, NEW)
    foreign["metadata"]["ownerReferences"][0]["uid"] = "somebody"
    assert rollout(Seen(deployment(NEW), ()), [foreign]).revisions == ()


def test_a_revision_is_found_by_its_name_its_beginning_or_its_replica_sets_name() -> None:
    of = under_way()
    for name in ("old", "ol", "llama-old"):
        assert of.find(name).name == "old"


@pytest.mark.parametrize(("name", "says"), [("x", "there are: new, old"), ("", "begin: new, old")])
def test_a_revision_that_is_not_clear_is_asked_for(name: str, says: str) -> None:
    with pytest.raises(CommandError, match=says):
        under_way().find(name)


def test_without_an_older_revision_there_is_nothing_to_go_back_to() -> None:
    of = rollout(Seen(deployment(NEW), ()), [replica_set("new", 9, 3, NEW)])
    with pytest.raises(CommandError, match=r"no older revision$"):
        of.find(None)


def test_what_has_failed_is_gone_back_to_only_by_name() -> None:
    failed = replica_set("old", 1, 0, OLD, **{names.ANNOTATION_FAILED: "{}"})
    of = rollout(Seen(deployment(NEW), ()), [failed, replica_set("new", 9, 3, NEW)])
    with pytest.raises(CommandError, match=r"but what has failed: name one of old$"):
        of.find(None)
    assert of.find("old").name == "old"


# patches


def carried_out(body: Json, patch: edit.Patch) -> Json:
    """The body after the patch, as RFC 6902 has it (for objects; lists are replaced whole)."""
    body = copy.deepcopy(body)
    for operation in patch:
        *above, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        parent = body
        for part in above:
            parent = parent[part]
        assert (last in parent) is (operation["op"] != "add")
        if operation["op"] == "remove":
            del parent[last]
        else:
            parent[last] = operation["value"]
    return body


json_value = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("ab/~", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab/~"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text("ab/~", min_size=1, max_size=3), json_value, max_size=4)


@given(objects, objects)
def test_a_patch_makes_one_spec_the_other(now: Json, wanted: Json) -> None:
    # As text: to Python 1 == True, to JSON it is not.
    after = carried_out({"spec": now}, edit.to_spec(now, wanted))["spec"]
    assert json.dumps(after, sort_keys=True) == json.dumps(wanted, sort_keys=True)


def test_no_difference_is_no_patch() -> None:
    assert edit.to_spec(NEW, NEW) == []


def test_undo_changes_what_makes_the_revision_and_nothing_else() -> None:
    now = {**NEW, "replicas": 5, "rollout": {"drainSeconds": 30, "strategy": "Recreate"}}
    wanted = edit.spec_of(OLD, now)
    assert wanted == {**OLD, "replicas": 5, "rollout": {"strategy": "Recreate"}}
    assert edit.to_spec(now, wanted) == [
        {"op": "add", "path": "/spec/limits", "value": {"maxTotalTokens": 4096}},
        {"op": "remove", "path": "/spec/model/revision"},
        {"op": "remove", "path": "/spec/rollout/drainSeconds"},
    ]


def test_undo_asks_for_the_very_revision() -> None:
    """Else a new one would be made, and the model loaded anew."""
    config = {"model_type": "llama", "rope_scaling": None, "nested": {"x": None}}
    user = user_inputs(
        LLMDeploymentSpec.model_validate(
            {**OLD, "model": {"id": "acme/llama", "config": config}, "rollout": {"drainSeconds": 7}}
        )
    )
    now = {**NEW, "replicas": 2, "rollout": {"drainSeconds": 1, "history": 5}}
    after = carried_out({"spec": now}, edit.to_spec(now, edit.spec_of(user, now)))["spec"]
    assert user_inputs(LLMDeploymentSpec.model_validate(after)) == user


@pytest.mark.parametrize("spec", [OLD, NEW, {**OLD, "rollout": {"paused": False}}])
def test_pause_and_resume(spec: Json) -> None:
    paused = carried_out({"spec": spec}, edit.paused(spec, True))["spec"]
    assert paused["rollout"]["paused"] is True
    resumed = carried_out({"spec": paused}, edit.paused(paused, False))["spec"]
    assert "paused" not in resumed["rollout"]
    assert user_inputs(LLMDeploymentSpec.model_validate(resumed)) == user_inputs(
        LLMDeploymentSpec.model_validate(spec)
    )


def test_what_is_so_already_is_not_written() -> None:
    assert edit.paused(OLD, False) == []
    assert edit.paused({**OLD, "rollout": {"paused": True}}, True) == []


@pytest.mark.parametrize("metadata", [{}, {"annotations": {}}, {"annotations": {"a": "b"}}])
def test_annotations_are_added_to_what_is_there(metadata: Json) -> None:
    after = carried_out({"metadata": metadata}, edit.promoted(metadata, "abc", 2))
    there = metadata.get("annotations", {})
    assert after["metadata"]["annotations"] == {**there, "llm-operator.dev/promote": "abc/2"}


def test_a_guarded_patch_names_the_version_that_was_read() -> None:
    patch = edit.guarded(edit.paused(OLD, True), "77")
    assert patch[0] == {"op": "replace", "path": "/metadata/resourceVersion", "value": "77"}


@pytest.mark.parametrize(
    ("metadata", "tool"),
    [
        ({}, None),
        ({"labels": {"app.kubernetes.io/instance": "x"}}, None),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}, "Flux"),
        ({"annotations": {"argocd.argoproj.io/tracking-id": "x"}}, "Argo CD"),
    ],
)
def test_who_would_write_it_back(metadata: Json, tool: str | None) -> None:
    assert edit.git_tool(metadata) == tool


# canaries

CANARY = {
    "strategy": "Canary",
    "canary": {
        "steps": [{"replicas": 1}, {"replicas": "20%", "pauseSeconds": 60}, {"replicas": 3}]
    },
}


def canary(at: int, promoted: str | None = None, **rollout_spec: Any) -> Rollout:
    """A canary of 10 replicas whose new revision is asked for `at` of them."""
    spec = {**NEW, "replicas": 10, "rollout": {**CANARY, **rollout_spec}}
    body = deployment(spec)
    if promoted:
        body["metadata"]["annotations"] = {names.ANNOTATION_PROMOTE: promoted}
    return rollout(Seen(body, ()), [replica_set("new", 9, at, NEW), replica_set("old", 1, 9, OLD)])


@pytest.mark.parametrize(
    ("at", "promoted", "released"),
    [(1, None, 1), (2, "new/1", 2), (3, "new/1", 3), (3, None, 3), (1, "old/3", 1), (2, None, 2)],
)
def test_promoting_releases_the_step_where_the_canary_waits(
    at: int, promoted: str | None, released: int
) -> None:
    assert next_release(canary(at, promoted)) == released


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (canary(1, "new/1"), "still on its way to step 2 of 3"),
        (canary(10), "past its last"),
        (canary(3, "new"), "past its last"),
        (canary(0), "still on its way to step 1 of 3"),
        (under_way(), "has no canary"),
    ],
)
def test_where_nothing_waits_nothing_is_promoted(of: Rollout, says: str) -> None:
    with pytest.raises(CommandError, match=says):
        next_release(of)


def test_a_step_is_a_share_of_the_replicas_that_the_scaler_wants() -> None:
    of = canary(5, None, canary={"steps": [{"replicas": "50%"}, {"replicas": "80%"}]})
    body = dict(of.seen.deployment)
    body["spec"].update(replicas=1, autoscaling={"maxReplicas": 10})
    with pytest.raises(CommandError, match="past its last"):  # of one replica
        next_release(of)
    body["status"]["scaling"] = {"mode": "Auto", "desiredReplicas": 10}
    assert next_release(of) == 1


def test_steps_of_as_many_pods_are_promoted_one_by_one() -> None:
    same = {"canary": {"steps": [{"replicas": 1}, {"replicas": "10%"}]}}
    assert next_release(canary(1, None, **same)) == 1
    assert next_release(canary(1, "new/1", **same)) == 2
