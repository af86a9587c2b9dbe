"""Identity of revisions: what makes a new one, what must never make one, what a record keeps."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.desired_inputs import A100, AWQ, COMMIT, PLAN_8B, plan, resolved, spec

from llm_operator.api.spec import user_inputs
from llm_operator.desired import revision
from llm_operator.desired.revision import Defaults, Record
from llm_operator.runtimes.base import Resolved
from llm_operator.runtimes.terms import Quantization, Rejected


def record(name: str = "chat", defaults: Defaults | None = None, **parts: Any) -> Record:
    wanted = spec(**parts)
    return revision.make_record(name, user_inputs(wanted), resolved(wanted, defaults=defaults))


FULL: dict[str, Any] = {
    "model": {"id": "org/model", "cache": {"claimName": "cache"}, "config": {"rope_scaling": None}},
    "quantization": {"method": "awq"},
    "runtime": {"cudaGraphs": [], "env": [{"name": "NCCL_DEBUG", "value": "WARN"}]},
    "scheduling": {"affinity": {"podAntiAffinity": {"x": [1, 2.5, None, {"y": True}]}}},
    "resources": {"limits": {"cpu": 4}},
    "rollout": {"drainSeconds": 30},
}


def test_a_record_is_read_back_as_it_was_written() -> None:
    wanted = spec(**FULL)
    detail: dict[str, object] = {"weight_block_size": [128, 128], "modules": None}
    rich = plan(
        quantization=Quantization("gptq", 4, 32, desc_act=True, detail=detail),
        rejected=(Rejected(3, "3 shards do not divide 32 attention heads"),),
        ways_out=("another GPU",),
    )
    made = revision.make_record("chat", user_inputs(wanted), resolved(wanted, rich))
    read = revision.record_from_json(revision.record_to_json(made))
    assert read == made


def test_a_record_that_was_read_is_written_back_letter_by_letter() -> None:
    text = json.dumps(json.loads(revision.record_to_json(record())), indent=1)
    read = revision.record_from_json(text)
    assert read is not None
    assert revision.record_to_json(read) == text


def test_a_record_of_a_newer_operator_is_readable() -> None:
    raw = json.loads(revision.record_to_json(record()))
    raw["later"] = raw["resolved"]["later"] = raw["resolved"]["plan"]["later"] = {"x": 1}
    assert revision.record_from_json(json.dumps(raw)) == record()


def test_a_record_of_an_older_operator_is_readable() -> None:
    raw = json.loads(revision.record_to_json(record()))
    del raw["resolved"]["plan"]["checkpoint_bytes"], raw["resolved"]["plan"]["ways_out"]
    read = revision.record_from_json(json.dumps(raw))
    assert read is not None
    assert read.resolved.plan.checkpoint_bytes == 0


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"revision": "x"}'])
def test_what_is_no_record(text: str) -> None:
    assert revision.record_from_json(text) is None


def test_the_hash_can_end_a_name() -> None:
    assert re.fullmatch(r"[bcdfghjklmnpqrstvwxz2456789]{10}", record().revision)


def test_the_same_wish_resolved_the_same_way_is_the_same_revision() -> None:
    again = {**FULL, "replicas": 7}
    assert record(**FULL) == record(**dict(reversed(again.items())))


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"id": "org/other"}},
        {"runtime": {"version": "3.3.5"}},
        {"runtime": {"env": [{"name": "NCCL_DEBUG", "value": "WARN"}]}},
        {"rollout": {"drainSeconds": 91}},
        {"scheduling": {"nodeSelector": {"zone": "a"}}},
        {"resources": {"limits": {"cpu": "4"}}},
        {"limits": {"maxTotalTokens": 4096}},
    ],
)
def test_each_change_of_the_user_is_another_revision(change: dict[str, Any]) -> None:
    before = record()
    after = record(**change)
    assert before.revision != after.revision
    assert revision.matching({"before": before}, after.user) is None


def test_what_was_resolved_and_reaches_the_pod_is_in_the_hash() -> None:
    wanted = spec()
    user, decided = user_inputs(wanted), resolved(wanted)
    for other in (
        replace(decided, commit="f" * 40),
        replace(decided, image="mirror/tgi:3.3.7"),
        replace(decided, plan=plan(tensor_parallel=2)),
        replace(decided, plan=plan(products=("NVIDIA-L4",))),
        replace(decided, drain=replace(decided.drain, grace=1)),
        replace(decided, startup_seconds=1),
    ):
        assert hash_of(user, other) != hash_of(user, decided)


def test_the_wording_of_a_plan_makes_no_revision() -> None:
    wanted = spec()
    user, decided = user_inputs(wanted), resolved(wanted)
    other = replace(decided, plan=plan(message="in other words", ways_out=("x",)))
    assert hash_of(user, other) == hash_of(user, decided)


def hash_of(user: dict[str, Any], decided: Resolved) -> str:
    return revision.revision_hash("chat", user, decided)


def test_other_defaults_of_the_operator_match_the_same_revision() -> None:
    wanted = spec(limits={"maxTotalTokens": 4096})
    user = user_inputs(wanted)
    old = revision.make_record("chat", user, resolved(wanted))
    new = Defaults(repository="mirror/tgi", version="3.3.5", drain_seconds=300)
    assert resolved(wanted, defaults=new) != old.resolved
    assert revision.matching({"chat-old": old}, user) == "chat-old"


def test_replicas_are_no_part_of_the_wish() -> None:
    assert user_inputs(spec(replicas=3)) == user_inputs(spec())


def test_a_field_that_an_operator_does_not_know_counts_as_unset() -> None:
    kept = record()
    with_later = replace(kept, user={**kept.user, "later": {"field": 1}})
    assert revision.matching({"chat-old": with_later}, kept.user) == "chat-old"


def test_the_first_match_in_the_order_given_wins() -> None:
    kept, other = record(), record(rollout={"drainSeconds": 30})
    assert revision.matching({"b": other, "a": kept, "c": kept}, kept.user) == "a"
    assert revision.matching({}, kept.user) is None


def test_a_record_that_is_no_valid_wish_any_more_is_compared_as_it_is() -> None:
    kept = record()
    odd = replace(kept, user={"model": {"id": "not valid now!"}})
    assert revision.matching({"odd": odd, "kept": kept}, kept.user) == "kept"
    assert revision.matching({"odd": odd}, odd.user) == "odd"


def test_a_template_is_restored_from_its_record() -> None:
    made = record(**FULL)
    template = revision.restore("chat", made)
    assert template == revision.render("chat", made.revision, made.user, made.resolved)


@pytest.mark.parametrize(
    "change",
    [
        {"rendering": "0" * 64},
        {"user": {"model": {"id": "org/other"}}},
        {"user": {"model": {}}},
        {"resolved": replace(record().resolved, image="other:3.3.7")},
        {"resolved": replace(record().resolved, engine="gone")},
        {"resolved": replace(record().resolved, plan=plan(fits=False))},
    ],
)
def test_a_template_that_cannot_be_told_is_not_guessed(change: dict[str, Any]) -> None:
    assert revision.restore("chat", replace(record(), **change)) is None


def test_resolving_keeps_what_the_user_set() -> None:
    wanted = spec(runtime={"version": "3.3.5"}, rollout={"drainSeconds": 30})
    decided = resolved(wanted, defaults=Defaults(version="3.3.7", drain_seconds=300))
    assert decided.engine_version == (3, 3, 5)
    assert decided.image.endswith(":3.3.5")
    assert decided.drain.graceful == 30
    assert decided.commit == COMMIT
    assert decided.plan == PLAN_8B


def test_resolving_fills_what_the_user_left_open() -> None:
    decided = resolved(spec(), defaults=Defaults("mirror/tgi", "3.3.6", 120))
    assert decided.image == "mirror/tgi:3.3.6"
    assert decided.drain.graceful == 120
    assert decided.gpu_resource == "nvidia.com/gpu"
    assert decided.startup_seconds == 900 + 270


def test_a_plan_that_does_not_fit_makes_no_revision() -> None:
    with pytest.raises(ValueError, match="needs 4 GPUs"):
        resolved(spec(), plan(fits=False, message="needs 4 GPUs"))


def test_the_gpus_asked_for_are_those_planned_with() -> None:
    shared = replace(A100, resource="nvidia.com/gpu.shared")
    assert resolved(spec(), plan(gpu=shared)).gpu_resource == "nvidia.com/gpu.shared"


def test_files_on_a_claim_have_no_commit() -> None:
    wanted = spec(model={"id": "a/b", "path": "a/b", "cache": {"claimName": "models"}})
    assert resolved(wanted).commit is None


def test_an_image_of_unknown_version_cannot_be_resolved() -> None:
    with pytest.raises(ValueError, match=r"runtime\.version"):
        resolved(spec(runtime={"image": "tgi:latest"}))


def test_the_startup_budget_is_for_what_is_read() -> None:
    wanted = spec(quantization={"method": "awq"})
    small = plan(quantization=AWQ, weight_bytes=1 << 30, checkpoint_bytes=100 << 30)
    assert resolved(wanted, small).startup_seconds == 2700
