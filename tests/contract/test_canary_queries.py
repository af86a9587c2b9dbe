"""What is counted of a canary's requests, by the metrics pages that a real router has shown."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm_operator.facts.canary import Measured, Trial, Window
from llm_operator.kube.store import Key
from llm_operator.observe.canary import NO_PROMETHEUS, Analyst, Question, Side, measure
from llm_operator.observe.prometheus import MetricsUnavailable, PrometheusConfig, Sample
from llm_operator.rollout.analysis import quantile
from llm_operator.runtimes.base import engine

RECORDED = json.loads((Path(__file__).parents[1] / "data/tgi_router_recorded.json").read_text())
ONE, LOAD, END = (
    re.sub(r"^\.\.\..*\n", "", RECORDED[f"metrics_{name}"]["body"], flags=re.MULTILINE)
    for name in ("after_one_request", "under_load", "at_end")
)
"""Pages of a real router; of the histograms some buckets were left out when they were recorded."""
START = 1_000_000.0
KEY = Key("ns", "llama")
NAMES = engine("tgi").metrics

Timeline = dict[float, dict[str, str | None]]
"""From when on each pod has which page; None: it cannot be read."""


class Recorded:
    """A Prometheus that scraped pods as a timeline has it. Knows selectors of one form."""

    def __init__(self, timeline: Timeline, **config: Any) -> None:
        self.config = PrometheusConfig("http://prometheus", **config)
        self.timeline = timeline
        self.now = START
        self.asked: list[str] = []
        self.extra: Callable[[Sample], Iterable[Sample]] = lambda sample: [sample]

    async def query(self, promql: str) -> list[Sample]:
        self.asked.append(promql)
        found = re.fullmatch(r"\{(.*)\}(?: offset (\d+)s)?", promql)
        assert found is not None, promql
        wanted = re.findall(r'(\w+)(=~|=)"([^"]*)"', found[1])
        moment = self.now - int(found[2] or 0)
        pages: dict[str, str | None] = {}
        for since in sorted(self.timeline):
            if since <= moment:
                pages |= self.timeline[since]
        samples = []
        for pod, page in pages.items():
            samples.append(self._sample("up", pod, {}, float(page is not None)))
            for family in text_string_to_metric_families(page or ""):
                samples.extend(  # the parser gives counters an ending that they do not have
                    self._sample(one.name.removesuffix("_total"), pod, dict(one.labels), one.value)
                    for one in family.samples
                )
        chosen = [s for s in samples if all(_fits(s, *matcher) for matcher in wanted)]
        return [more for sample in chosen for more in self.extra(sample)]

    def _sample(self, name: str, pod: str, labels: dict[str, str], value: float) -> Sample:
        own = {self.config.namespace_label: "ns", self.config.pod_label: pod, "cluster": "a"}
        return Sample({"__name__": name, **own, **labels}, value, self.now)


def _fits(sample: Sample, label: str, operator: str, value: str) -> bool:
    actual = sample.labels.get(label, "")
    return actual == value if operator == "=" else re.fullmatch(value, actual) is not None


def question(
    new: dict[str, float], old: dict[str, float], since: float = START, window: float = 300
) -> Question:
    trial = Trial("b", "a", since, window)
    return Question(trial, "ns", Side("llama-b", NAMES, new), Side("llama-a", NAMES, old))


async def measured(
    timeline: Timeline, asked: Question, now: float, **config: Any
) -> tuple[Measured, Recorded]:
    prometheus = Recorded(timeline, **config)
    prometheus.now = now
    return await measure(prometheus, asked, now), prometheus


def counts(window: Window | None) -> tuple[float, float] | None:
    return (window.requests, window.failures) if window else None


async def test_both_sides_are_counted_within_the_same_time() -> None:
    """`END` has 13 answers, 2 failures of the engine, 5 refusals, and 6 that are the clients'."""
    timeline: Timeline = {
        START - 500: {"llama-a-1": ONE},
        START - 100: {"llama-a-1": LOAD},
        START: {"llama-b-1": ""},
        START + 60: {"llama-a-1": END, "llama-b-1": END},
    }
    found, asked = await measured(
        timeline, question({"llama-b-1": START}, {"llama-a-1": START - 1e6}), START + 90
    )
    assert found.seconds == 90
    assert not found.outage
    assert counts(found.new) == (20, 7)
    assert counts(found.old) == (13 - 8 + 2, 2)
    assert found.new is not None
    assert found.old is not None
    assert found.new.seconds.number == 13
    assert found.new.seconds.total == pytest.approx(26.965974964)
    assert found.new.seconds_per_token.total == pytest.approx(0.367305563)
    assert found.old.seconds.number == 5
    assert found.old.seconds.total == pytest.approx(26.965974964 - 23.025788843)
    assert 0.0 < quantile(found.new.seconds, 0.95) < 145.7
    assert len(asked.asked) == 2
    assert asked.asked[1] == f"{asked.asked[0]} offset 90s"


async def test_only_the_last_part_of_a_long_time_counts() -> None:
    timeline: Timeline = {
        START: {"llama-a-1": "", "llama-b-1": ""},
        START + 100: {"llama-a-1": LOAD, "llama-b-1": LOAD},
        START + 500: {"llama-a-1": END, "llama-b-1": END},
    }
    pods = {"llama-b-1": START}, {"llama-a-1": START}
    found, asked = await measured(timeline, question(*pods), START + 600)
    assert found.seconds == 300
    assert asked.asked[1].endswith(" offset 300s")
    assert counts(found.new) == counts(found.old) == (7, 2)


async def test_a_pod_that_had_no_series_yet_had_no_request_but_one_not_read_is_not_known() -> None:
    pages: Timeline = {START + 30: {"llama-a-1": LOAD, "llama-b-1": LOAD}}
    young = question({"llama-b-1": START}, {"llama-a-1": START - 1e5})
    found, _ = await measured(pages, young, START + 100)
    assert counts(found.new) == (13, 5)  # all its life is within the window
    assert found.old is None  # what it had counted before is not known
    read: Timeline = {START - 20: {"llama-a-1": ""}, **pages}
    found, _ = await measured(read, young, START + 100)
    assert counts(found.old) == (13, 5)
    failed: Timeline = {START - 20: {"llama-a-1": None}, **pages}
    found, _ = await measured(failed, young, START + 100)
    assert found.old is None


async def test_an_engine_that_starts_again_counts_from_zero() -> None:
    timeline: Timeline = {
        START - 9: {"llama-a-1": END, "llama-b-1": END},
        START + 30: {"llama-a-1": ONE, "llama-b-1": ""},
    }
    pods = {"llama-b-1": START - 500}, {"llama-a-1": START - 500}
    found, _ = await measured(timeline, question(*pods), START + 60)
    assert counts(found.old) == (1, 0)
    assert counts(found.new) == (0, 0)


async def test_pods_add_up_and_those_that_cannot_be_read_are_told() -> None:
    timeline: Timeline = {
        START - 9: {"llama-a-1": "", "llama-a-2": "", "llama-b-1": ""},
        START + 30: {
            "llama-a-1": END,
            "llama-a-2": LOAD,
            "llama-b-1": None,
            "llama-b-2": END,
            "llama-bad-1": END,
            "llama-b": END,
        },
    }
    new, old = ("llama-b-1", "llama-b-2", "llama-b-3"), ("llama-a-1", "llama-a-2")
    asked = question(dict.fromkeys(new, START), dict.fromkeys(old, START))
    found, _ = await measured(timeline, asked, START + 60)
    assert counts(found.new) == (20, 7)
    assert found.unread == 2
    assert counts(found.old) == (33, 12)
    assert found.old is not None
    assert found.old.seconds.number == 21


async def test_a_pod_that_two_jobs_read_counts_once_and_labels_may_have_other_names() -> None:
    timeline: Timeline = {START - 9: {"llama-b-1": "", "llama-a-1": ""}}
    timeline[START + 9] = {"llama-b-1": END, "llama-a-1": END}
    pods = {"llama-b-1": START}, {"llama-a-1": START}
    prometheus = Recorded(
        timeline, namespace_label="ns", pod_label="pod_name", matchers='cluster="a"'
    )
    prometheus.now = START + 60
    prometheus.extra = lambda s: [s, Sample({**s.labels, "job": "two"}, s.value, s.at)]
    found = await measure(prometheus, question(*pods), prometheus.now)
    assert counts(found.new) == counts(found.old) == (20, 7)
    assert found.new is not None
    assert found.new.seconds.number == 13
    prometheus.config = replace(prometheus.config, matchers='cluster="b"')
    nobody = await measure(prometheus, question(*pods), prometheus.now)
    assert (nobody.new, nobody.old, nobody.unread) == (None, None, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
async def test_what_is_no_count_is_not_read(value: float) -> None:
    timeline: Timeline = {START + 9: {"llama-b-1": END}}
    prometheus = Recorded(timeline)
    prometheus.now = START + 60
    prometheus.extra = lambda s: [
        Sample(s.labels, value, s.at) if s.labels["__name__"] == "tgi_request_success" else s
    ]
    found = await measure(prometheus, question({"llama-b-1": START}, {}), prometheus.now)
    assert (found.new, found.unread) == (None, 1)


async def test_a_long_name_is_found_as_the_api_server_shortens_it() -> None:
    replica_set = "m" * 50 + "-0123456789"
    pod = (replica_set + "-")[:58] + "x7k2p"
    side = Side(replica_set, NAMES, {pod: START})
    asked = Question(Trial("b", "a", START, 300.0), "ns", side, side)
    found, _ = await measured({START + 9: {pod: END}}, asked, START + 60)
    assert counts(found.new) == (20, 7)


@pytest.mark.parametrize(
    ("error", "said"),
    [(MetricsUnavailable("it is down"), "it is down"), (KeyError("x"), "KeyError")],
)
async def test_what_goes_wrong_is_told(error: Exception, said: str) -> None:
    class Broken(Recorded):
        async def query(self, promql: str) -> list[Sample]:
            raise error

    found = await measure(Broken({}), question({}, {}), START)
    assert said in found.outage
    assert (found.new, found.old) == (None, None)


async def test_buckets_without_a_bound_end_no_measuring() -> None:
    prometheus = Recorded({START: {"llama-b-1": "", "llama-a-1": ""}, START + 9: dict(BOTH)})
    prometheus.now = START + 60
    prometheus.extra = lambda sample: [
        replace(sample, labels={k: v for k, v in sample.labels.items() if k != "le"})
    ]
    found = await measure(prometheus, question(*PODS), START + 60)
    assert "measuring failed" in found.outage


# in the background


class Told:
    """What the analyst tells, and a clock."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.now = START

    def analyst(self, prometheus: Recorded | None) -> Analyst:
        def clock() -> float:
            now = START + asyncio.get_running_loop().time()
            if prometheus is not None:
                prometheus.now = now
            return now

        return Analyst(self.keys.append, prometheus, clock)


PODS = {"llama-b-1": START}, {"llama-a-1": START}
BOTH = {"llama-b-1": LOAD, "llama-a-1": LOAD}
BUSY: Timeline = {
    START: {"llama-a-1": "", "llama-b-1": ""},
    START + 40: {"llama-a-1": LOAD, "llama-b-1": LOAD},
}


@pytest.mark.looptime
async def test_it_measures_as_long_as_it_is_asked_and_tells_only_what_is_new() -> None:
    told, prometheus = Told(), Recorded(BUSY)
    analyst = told.analyst(prometheus)
    analyst.ask(KEY, question(*PODS))
    assert analyst.result(KEY) is None
    for second in range(200):  # every pass asks again
        await asyncio.sleep(1)
        analyst.ask(KEY, question(*PODS))
        found = analyst.result(KEY)
        assert found is not None
        assert counts(found.new) == ((13, 5) if second >= 44 else (0, 0))
    assert told.keys == [KEY, KEY]
    assert 20 <= len(prometheus.asked) <= 30  # two each 15 s
    analyst.forget(KEY)
    asked = len(prometheus.asked)
    await asyncio.sleep(100)
    assert len(prometheus.asked) == asked
    assert analyst.result(KEY) is None
    await analyst.close()


@pytest.mark.looptime
async def test_another_trial_begins_with_nothing_and_other_pods_do_not() -> None:
    prometheus = Recorded(BUSY)
    analyst = Told().analyst(prometheus)
    analyst.ask(KEY, question(*PODS))
    await asyncio.sleep(50)
    more = {**PODS[0], "llama-b-2": START}, PODS[1]
    analyst.ask(KEY, question(*more))
    assert analyst.result(KEY) is not None
    await asyncio.sleep(20)
    found = analyst.result(KEY)
    assert found is not None
    assert found.unread == 1
    analyst.ask(KEY, question(*PODS, since=START + 60))
    assert analyst.result(KEY) is None
    await asyncio.sleep(1)
    found = analyst.result(KEY)
    assert found is not None
    assert found.trial is not None
    assert found.trial.since == START + 60
    await analyst.close()
    assert analyst.result(KEY) is None


@pytest.mark.looptime
async def test_a_short_window_is_looked_at_more_often() -> None:
    prometheus = Recorded(BUSY)
    analyst = Told().analyst(prometheus)
    analyst.ask(KEY, question(*PODS, window=40))
    await asyncio.sleep(21)
    assert len(prometheus.asked) == 2 * 11
    await analyst.close()


async def test_without_a_prometheus_that_is_the_answer() -> None:
    analyst = Told().analyst(None)
    analyst.ask(KEY, question(*PODS))
    assert analyst.result(KEY) == NO_PROMETHEUS
    assert "--prometheus-url" in NO_PROMETHEUS.outage
    await analyst.close()
