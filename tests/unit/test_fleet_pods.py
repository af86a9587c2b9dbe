"""A pod's life on a virtual kubelet, second by second, by a clock that costs no time."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from tests.unit.fleet_fakes import POD, FakeImage, Script, pod, world

from llm_operator.cluster.fleet.api import ApiError, Object
from llm_operator.cluster.fleet.container import Exit
from llm_operator.cluster.fleet.faults import FaultRules

pytestmark = pytest.mark.looptime

READINESS = {"readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5}}


def crash(code: int = 1, log: str = "") -> tuple[float, Exit]:
    return 0.5, Exit(code, log)


def pre_stop(seconds: int) -> Object:
    return {"lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}}


async def test_a_pod_starts_and_is_ready_when_its_probe_says_so() -> None:
    async with world() as it:
        it.health["readiness"] = ["refused", "refused", None]
        it.run(pod(READINESS))
        await asyncio.sleep(1)
        assert it.status()["phase"] == "Running"
        assert it.condition("Ready") == ("False", "ContainersNotReady")
        assert it.container()["started"] is True
        await asyncio.sleep(10)
        assert it.condition("Ready") == ("True", None)
        assert it.status()["podIP"] == "10.244.3.2"
        assert it.events.reasons().count("Unhealthy") == 2


async def test_at_rest_nothing_is_written() -> None:
    async with world() as it:
        worker = it.run(pod(READINESS))
        await asyncio.sleep(5)
        writes = len(it.api.writes)
        worker.changed()
        worker.update(it.api.objects[POD])
        await asyncio.sleep(600)
        assert len(it.api.writes) == writes
        assert writes <= 3


async def test_liveness_and_readiness_wait_for_the_startup_probe() -> None:
    async with world() as it:
        it.health = {"startup": ["no"] * 8 + [None], "liveness": ["dead"] * 99}
        probes = {
            "startupProbe": {"httpGet": {"port": 80}, "periodSeconds": 10, "failureThreshold": 30},
            "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1, "failureThreshold": 1},
        }
        it.run(pod(probes))
        await asyncio.sleep(79)
        assert (it.container()["started"], it.container()["ready"]) == (False, False)
        assert it.program.diary == [("start", 0.0)]
        await asyncio.sleep(4)
        assert it.program.diary[1][0] == "TERM"


async def test_a_startup_probe_that_never_succeeds_restarts_the_container() -> None:
    async with world() as it:
        it.health["startup"] = ["no"]
        probe = {"httpGet": {"port": 80}, "periodSeconds": 10, "failureThreshold": 3}
        it.run(pod({"startupProbe": probe}))
        await asyncio.sleep(23)
        assert it.container()["restartCount"] == 1
        assert [what for what, _ in it.program.diary] == ["start", "TERM", "start"]


async def test_liveness_needs_its_failures_in_a_row() -> None:
    async with world() as it:
        it.health["liveness"] = ["no", "no", None, "no", "no", None]
        probe = {"httpGet": {"port": 80}, "periodSeconds": 1, "failureThreshold": 3}
        it.run(pod({"livenessProbe": probe}))
        await asyncio.sleep(30)
        assert it.container()["restartCount"] == 0


async def test_drain_is_hook_then_term_then_final_delete() -> None:
    async with world() as it:
        it.program.term_after = 3.0
        worker = it.run(pod(pre_stop(5)))
        await asyncio.sleep(100)
        it.delete(worker, grace=60)
        await asyncio.sleep(6)
        assert it.container()["state"].get("running"), "still finishing"
        await asyncio.sleep(20)
        assert it.program.diary == [("start", 0.0), ("TERM", 105.0)]
        assert it.api.deleted[POD] == pytest.approx(108.0, abs=0.2)
        assert it.api.statuses[-1]["phase"] == "Succeeded"


@pytest.mark.parametrize(
    ("hook", "grace", "term", "kill"),
    [(5, 20, 5.0, 20.0), (25, 20, 20.0, 22.0), (0, 1, 0.0, 2.0), (19, 20, 19.0, 21.0)],
)
async def test_the_hook_counts_against_the_grace_period(
    hook: int, grace: int, term: float, kill: float
) -> None:
    async with world() as it:
        it.program.term_after = None
        worker = it.run(pod(pre_stop(hook) if hook else {}))
        await asyncio.sleep(100)
        it.delete(worker, grace)
        await asyncio.sleep(60)
        assert it.program.diary[1:] == [("TERM", 100 + term), ("KILL", 100 + kill)]
        assert it.api.statuses[-1]["phase"] == "Failed"
        ended = it.api.statuses[-1]["containerStatuses"][0]["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (137, "Error")


async def test_a_second_delete_can_only_shorten_the_grace_period() -> None:
    async with world() as it:
        it.program.term_after = None
        worker = it.run(pod())
        await asyncio.sleep(100)
        it.delete(worker, grace=600)
        await asyncio.sleep(10)
        it.delete(worker, grace=20)
        await asyncio.sleep(1)
        it.delete(worker, grace=300)
        await asyncio.sleep(60)
        assert it.program.diary[1:] == [("TERM", 100.0), ("KILL", 130.0)]


async def test_readiness_is_probed_on_during_the_drain_and_liveness_is_not() -> None:
    async with world() as it:
        it.health = {"liveness": ["dead"], "readiness": [None]}
        probes = {
            "livenessProbe": {
                "httpGet": {"port": 80},
                "periodSeconds": 1,
                "failureThreshold": 5,
                "terminationGracePeriodSeconds": 1,
            },
            "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1, "failureThreshold": 1},
        }
        worker = it.run(pod(probes | pre_stop(20)))
        await asyncio.sleep(2)
        it.delete(worker, grace=40)
        it.health["readiness"] = ["refused"]
        await asyncio.sleep(15)
        assert it.condition("Ready") == ("False", "ContainersNotReady")
        await asyncio.sleep(20)
        assert it.program.diary[1:] == [("TERM", 22.0)]


async def test_a_crash_loop_backs_off_exponentially() -> None:
    async with world() as it:
        it.program.ends = [crash(1, "boom")]
        it.run(pod({"terminationMessagePolicy": "FallbackToLogsOnError"}))
        await asyncio.sleep(20)
        starts = [when for what, when in it.program.diary if what == "start"]
        gaps = [round(b - a - 0.5, 1) for a, b in itertools.pairwise(starts)]
        assert gaps == [0.0, 1.0, 2.0, 4.0, 8.0]
        container = it.container()
        assert container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert "back-off 16s restarting" in container["state"]["waiting"]["message"]
        assert container["restartCount"] == 5
        assert container["lastState"]["terminated"]["message"] == "boom"
        assert it.status()["phase"] == "Running"
        assert it.condition("Ready") == ("False", "ContainersNotReady")
        assert (container["ready"], container["started"]) == (False, False)
        assert "BackOff" in it.events.reasons()


@pytest.mark.parametrize(("policy", "restarts"), [("Always", 1), ("OnFailure", 0), ("Never", 0)])
async def test_a_container_that_has_completed_begins_again_only_if_always(
    policy: str, restarts: int
) -> None:
    async with world() as it:
        it.program.ends = [(1.0, Exit(0)), None]
        it.run(pod(restartPolicy=policy))
        await asyncio.sleep(5)
        assert it.container()["restartCount"] == restarts
        assert it.status()["phase"] == ("Running" if restarts else "Succeeded")


async def test_a_long_run_forgives_former_crashes() -> None:
    async with world() as it:
        it.program.ends = [crash(), crash(), crash(), (61.0, Exit(1)), (999.0, Exit(1))]
        it.run(pod())
        await asyncio.sleep(66)
        starts = [when for what, when in it.program.diary if what == "start"]
        assert starts[-1] - starts[-2] == pytest.approx(61.0, abs=0.2)


async def test_out_of_memory_is_told_as_the_kubelet_tells_it() -> None:
    async with world() as it:
        it.program.ends = [(0.5, Exit(137, oom_killed=True)), None]
        it.run(pod())
        await asyncio.sleep(2)
        ended = it.container()["lastState"]["terminated"]
        assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
        assert it.container()["restartCount"] == 1


async def test_a_program_that_breaks_is_a_container_that_crashed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Script):
        def start(self, spec: object) -> None:  # type: ignore[override]
            raise RuntimeError("a bug in the program")

    async with world() as it:
        it.images["prog"] = FakeImage(Broken())
        it.run(pod({"terminationMessagePolicy": "FallbackToLogsOnError"}))
        await asyncio.sleep(5)
        assert "a bug in the program" in it.container()["lastState"]["terminated"]["message"]


async def test_an_image_that_is_nowhere_is_waited_for_until_the_pod_is_deleted() -> None:
    async with world() as it:
        worker = it.run(pod({"image": "nowhere"}))
        await asyncio.sleep(0.5)
        assert it.container()["state"]["waiting"]["reason"] == "ErrImagePull"
        await asyncio.sleep(1)
        assert it.container()["state"]["waiting"]["reason"] == "ImagePullBackOff"
        assert it.status()["phase"] == "Pending"
        it.delete(worker, grace=30)
        await asyncio.sleep(0.2)
        assert POD in it.api.deleted


async def test_a_missing_secret_holds_the_container_until_it_is_there() -> None:
    reference = {"secretKeyRef": {"name": "hub", "key": "token"}}
    async with world() as it:
        it.run(pod({"env": [{"name": "HF_TOKEN", "valueFrom": reference}]}))
        await asyncio.sleep(3)
        waiting = it.container()["state"]["waiting"]
        assert waiting["reason"] == "CreateContainerConfigError"
        assert waiting["message"] == 'secret "hub" not found'
        it.api.put("/api/v1/namespaces/ns/secrets/hub", {"data": {"token": "aHVzaA=="}})
        await asyncio.sleep(2)
        assert it.program.specs[0].env["HF_TOKEN"] == "hush"
        assert it.status()["phase"] == "Running"


async def test_a_root_image_may_not_run_where_root_is_forbidden() -> None:
    async with world() as it:
        it.run(pod(securityContext={"runAsNonRoot": True}))
        await asyncio.sleep(1)
        assert "runAsNonRoot" in it.container()["state"]["waiting"]["message"]
        it.images["other"] = FakeImage(Script())
        named = pod({"image": "other"}, securityContext={"runAsNonRoot": True, "runAsUser": 1000})
        named["metadata"] |= {"name": "named", "uid": "uid-2"}
        it.run(named, POD + "2")
        await asyncio.sleep(1)
        assert it.images["other"].program.specs[0].run_as_user == 1000


async def test_a_command_that_the_image_does_not_have_cannot_start() -> None:
    async with world() as it:
        it.run(pod({"command": ["/bin/sh", "-c", "ls"]}))
        await asyncio.sleep(5)
        ended = it.container()["lastState"]["terminated"]
        assert (ended["reason"], ended["exitCode"]) == ("StartError", 128)
        assert '"/bin/sh"' in ended["message"]
        assert it.program.specs == []


async def test_a_command_s_own_words_come_before_the_arguments() -> None:
    async with world() as it:
        env = [{"name": "MODEL", "value": "org/model"}]
        it.run(pod({"command": ["/run", "--id=$(MODEL)"], "args": ["--n=1"], "env": env}))
        await asyncio.sleep(1)
        assert it.program.specs[0].args == ("--id=org/model", "--n=1")


async def test_a_card_belongs_to_one_pod_until_its_last_container_has_ended() -> None:
    async with world() as it:
        it.program.term_after = 5.0
        gpus = {"resources": {"limits": {"nvidia.com/gpu": "5"}}}
        first = it.run(pod(gpus))
        await asyncio.sleep(1)
        second = pod(gpus)
        second["metadata"] |= {"name": "two", "uid": "uid-2"}
        it.run(second, "/api/v1/namespaces/ns/pods/two")
        await asyncio.sleep(1)
        refused = it.status("/api/v1/namespaces/ns/pods/two")
        assert (refused["phase"], refused["reason"]) == ("Failed", "UnexpectedAdmissionError")
        assert "Requested: 5, Available: 3" in refused["message"]
        assert len(it.program.specs[0].gpus) == 5

        it.delete(first, grace=30)
        await asyncio.sleep(3)
        assert len(it.machine.cards.holders()) == 5
        await asyncio.sleep(3)
        assert it.machine.cards.holders() == {}


async def test_a_pod_without_an_address_holds_no_cards() -> None:
    async with world() as it:
        for _ in range(253):
            it.machine.addresses.allocate()
        it.run(pod({"resources": {"limits": {"nvidia.com/gpu": "5"}}}))
        await asyncio.sleep(1)
        assert "no free pod address" in it.status()["message"]
        assert it.machine.cards.holders() == {}


async def test_an_address_given_on_is_not_freed_by_its_former_holder() -> None:
    async with world() as it:
        it.program.ends = [(1.0, Exit(0))]
        worker = it.run(pod(restartPolicy="Never"))
        await asyncio.sleep(3)
        address = it.status()["podIP"]
        assert it.machine.addresses.allocate(preferred=address) == address
        it.delete(worker, grace=1)
        await asyncio.sleep(1)
        assert POD in it.api.deleted
        assert it.machine.addresses.allocate(preferred=address) != address


async def test_news_that_is_older_than_what_is_known_is_ignored() -> None:
    async with world() as it:
        worker = it.run(pod())
        old = dict(worker.pod)
        await asyncio.sleep(1)
        writes = len(it.api.writes)
        worker.update(old)
        await asyncio.sleep(1)
        assert worker.pod["status"]["phase"] == "Running"
        assert len(it.api.writes) == writes


async def test_a_readiness_gate_holds_the_pod_until_it_is_opened() -> None:
    async with world() as it:
        worker = it.run(pod(readinessGates=[{"conditionType": "example.org/accepted"}]))
        await asyncio.sleep(1)
        assert it.condition("ContainersReady") == ("True", None)
        assert it.condition("Ready") == ("False", "ReadinessGatesNotReady")
        gate: Object = {"type": "example.org/accepted", "status": "True"}
        item = it.api.objects[POD]
        item["status"]["conditions"].append(gate)
        worker.update(it.api.put(POD, item))
        await asyncio.sleep(1)
        assert it.condition("Ready") == ("True", None)
        assert gate in it.status()["conditions"]


async def test_init_containers_run_first_and_one_after_the_other() -> None:
    async with world() as it:
        one, two = Script([crash(), (2.0, Exit(0))]), Script([(2.0, Exit(0))])
        it.images |= {"one": FakeImage(one), "two": FakeImage(two)}
        init = [{"name": "a", "image": "one"}, {"name": "b", "image": "two"}]
        it.run(pod(initContainers=init))
        await asyncio.sleep(1)
        assert it.status()["phase"] == "Pending"
        assert it.container()["state"]["waiting"]["reason"] == "PodInitializing"
        assert it.condition("Initialized") == ("False", "ContainersNotInitialized")
        await asyncio.sleep(10)
        assert [when for _, when in one.diary + two.diary] == pytest.approx([0, 0.5, 2.5], abs=0.2)
        assert it.program.diary[0][1] == pytest.approx(4.5, abs=0.2)
        assert it.condition("Ready") == ("True", None)


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (3, "Failed")])
async def test_a_pod_that_never_restarts_ends(code: int, phase: str) -> None:
    async with world() as it:
        it.program.ends = [(1.0, Exit(code))]
        it.run(pod({"resources": {"limits": {"nvidia.com/gpu": 1}}}, restartPolicy="Never"))
        await asyncio.sleep(3)
        assert it.status()["phase"] == phase
        assert it.machine.cards.holders() == {}
        assert it.api.deleted == {}


async def test_power_loss_kills_without_a_word_and_frees_what_was_held() -> None:
    async with world() as it:
        worker = it.run(pod({"resources": {"limits": {"nvidia.com/gpu": 8}}}))
        await asyncio.sleep(1)
        writes = list(it.api.writes)
        it.tasks[worker.uid].cancel()
        await asyncio.sleep(60)
        assert it.program.alive == 0
        assert it.api.writes == writes
        assert it.machine.cards.holders() == {}
        assert it.status()["phase"] == "Running"


async def test_after_a_power_loss_containers_begin_again_on_the_same_address() -> None:
    async with world() as it:
        it.machine.addresses.allocate()
        first = it.run(pod())
        await asyncio.sleep(1)
        it.tasks[first.uid].cancel()
        await asyncio.sleep(1)
        it.run(it.api.objects[POD])
        await asyncio.sleep(1)
        container = it.container()
        assert container["restartCount"] == 1
        assert container["lastState"]["terminated"]["reason"] == "Unknown"
        assert it.condition("Ready") == ("True", None)
        assert it.status()["podIP"] == "10.244.3.3"


async def test_a_pod_found_deleted_is_only_cleared_away() -> None:
    async with world() as it:
        item = pod()
        item["metadata"] |= {"deletionTimestamp": "x", "deletionGracePeriodSeconds": 30}
        it.run(item)
        await asyncio.sleep(1)
        assert it.api.writes == [("DELETE", POD)]


async def test_a_successor_of_the_same_name_is_not_deleted_by_mistake() -> None:
    async with world() as it:
        worker = it.run(pod())
        await asyncio.sleep(1)
        it.delete(worker, grace=30)
        it.api.objects[POD]["metadata"]["uid"] = "another"
        await asyncio.sleep(5)
        assert POD in it.api.objects
        assert it.tasks[worker.uid].done()


async def test_a_write_that_fails_is_made_again() -> None:
    async with world() as it:
        it.api.failures = [ApiError(500, "", "etcd"), TimeoutError()]
        it.run(pod())
        await asyncio.sleep(3)
        assert it.condition("Ready") == ("True", None)


async def test_somebody_else_s_status_is_put_right() -> None:
    async with world() as it:
        worker = it.run(pod())
        await asyncio.sleep(1)
        item = it.api.objects[POD]
        for condition in item["status"]["conditions"]:
            if condition["type"] == "Ready":
                condition |= {"status": "False", "reason": "NodeNotReady"}
        worker.update(it.api.put(POD, item))
        await asyncio.sleep(1)
        assert it.condition("Ready") == ("True", None)


async def test_faults_reach_the_running_program_and_leave_it_again() -> None:
    async with world() as it:
        worker = it.run(pod())
        await asyncio.sleep(1)
        faults = it.program.specs[0].faults
        assert faults == {}
        it.change(worker, annotations={"fleet.llm-operator.dev/fault": "hang,slow=4"})
        assert faults == {"hang": "", "slow": "4"}
        it.change(worker, annotations={})
        assert faults == {}


async def test_a_kill_is_one_sigkill() -> None:
    async with world() as it:
        worker = it.run(pod())
        await asyncio.sleep(1)
        it.change(worker, annotations={"fleet.llm-operator.dev/fault": "kill"})
        await asyncio.sleep(60)
        assert [what for what, _ in it.program.diary] == ["start", "KILL", "start"]
        assert it.container()["restartCount"] == 1


async def test_a_rule_set_beforehand_meets_the_pod_when_it_comes() -> None:
    async with world() as it:
        rule = '{"namespace": "ns", "fault": "slow-start=30"}'
        assert isinstance(it.rules, FaultRules)
        it.rules.on_change("ADDED", {"data": {"r": rule}})
        it.run(pod())
        await asyncio.sleep(1)
        assert it.program.specs[0].faults == {"slow-start": "30"}


async def test_a_volume_that_is_not_there_holds_the_pod() -> None:
    claim = {"name": "models", "persistentVolumeClaim": {"claimName": "weights"}}
    mount = {"volumeMounts": [{"name": "models", "mountPath": "/data", "subPath": "llama"}]}
    async with world() as it:
        it.run(pod(mount, volumes=[claim]))
        await asyncio.sleep(2)
        assert it.container()["state"]["waiting"]["reason"] == "ContainerCreating"
        assert "FailedMount" in it.events.reasons()
        models = '{"llama/8b": "meta-llama/Llama-3.1-8B"}'
        annotations = {"fleet.llm-operator.dev/models": models}
        it.api.put(
            "/api/v1/namespaces/ns/persistentvolumeclaims/weights",
            {"metadata": {"name": "weights", "annotations": annotations}},
        )
        await asyncio.sleep(2)
        assert it.program.specs[0].volumes[0].models == {"8b": "meta-llama/Llama-3.1-8B"}
