"""The queue and the batch: nothing is lost, nothing overtakes, the cache is never overbooked."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from llm_operator.cluster.tgi.engine import Engine, Request, Settings


class Even:
    """A second for a prefill, a tenth for a decode."""

    def decode(self, contexts: Sequence[int]) -> float:
        return 0.1

    def prefill(self, lengths: Sequence[int]) -> float:
        return 1.0


def requests(*tokens: int, given: int = 10) -> list[Request]:
    return [Request(given, number, number) for number in tokens]


def play(engine: Engine, arrivals: Sequence[tuple[float, Request]]) -> float:
    """Let all requests come and be served; returns the virtual time at which the last one ends."""
    now, waiting = 0.0, sorted(arrivals, key=lambda pair: pair[0])
    while True:
        while waiting and waiting[0][0] <= now:
            at, request = waiting.pop(0)
            engine.submit(request, at)
        step = engine.begin(now)
        if step is None:
            if not waiting:
                return now
            now = waiting[0][0]
            continue
        now += step.seconds
        engine.finish(step)


CACHE, PREFILL = 500, 200
WORK = st.lists(
    st.tuples(st.floats(0, 5), st.integers(1, PREFILL), st.integers(1, 40)), max_size=12
)
KNOBS = st.builds(
    Settings,
    cache_tokens=st.just(CACHE),
    prefill_tokens=st.just(PREFILL),
    block_size=st.sampled_from([1, 16]),
    chunking=st.booleans(),
    max_waiting_tokens=st.integers(0, 30),
    max_batch_size=st.one_of(st.none(), st.integers(1, 5)),
)


@settings(deadline=None, max_examples=40)
@given(WORK, KNOBS)
def test_every_request_ends_with_all_its_tokens(
    work: list[tuple[float, int, int]], knobs: Settings
) -> None:
    arrivals = [(at, Request(given, tokens, tokens)) for at, given, tokens in work]
    engine = Engine(knobs, Even())
    play(engine, arrivals)
    assert all(request.produced == request.tokens for _, request in arrivals)
    assert (engine.queued, engine.running) == (0, 0)
    assert engine.free_tokens == CACHE // knobs.block_size * knobs.block_size
    if work:
        gauges = engine.gauges
        assert (gauges.queue, gauges.batch, gauges.batch_tokens) == (0, 0, 0)


@settings(deadline=None, max_examples=40)
@given(WORK, KNOBS)
def test_first_come_first_served_within_the_cache(
    work: list[tuple[float, int, int]], knobs: Settings
) -> None:
    engine = Engine(knobs, Even())
    order = [Request(given, tokens, tokens) for _, given, tokens in work]
    for request in order:
        engine.submit(request, 0.0)
    now = 0.0
    while (step := engine.begin(now)) is not None:
        assert engine.free_tokens >= 0
        assert engine.queued + engine.running + sum(r.done for r in order) == len(order)
        if knobs.max_batch_size is not None:
            assert engine.running <= knobs.max_batch_size
        if knobs.chunking:
            assert sum(tokens for _, tokens in step.prefilling) <= PREFILL
        now += step.seconds
        engine.finish(step)
    starts = [request.started_at for request in order]
    assert all(start is not None for start in starts)
    assert starts == sorted(start for start in starts if start is not None)


def test_the_gauges_of_forty_requests_in_a_batch_of_nine() -> None:
    """Recorded on the real router: 31 wait while 9 run, and the batch reads 0 when it ends."""
    settings = Settings(9 * 19, 10_000, chunking=False)
    engine = Engine(settings, Even())
    for request in requests(*[10] * 40):
        engine.submit(request, 0.0)
    assert engine.gauges.queue == 40
    seen: list[tuple[int | None, int | None]] = []
    while (step := engine.begin(0.0)) is not None:
        seen.append((engine.gauges.queue, engine.gauges.batch))
        engine.finish(step)
        if engine.running == 0:
            assert engine.gauges.batch == 0
    batches = [pair for index, pair in enumerate(seen) if pair != seen[index - 1]]
    assert batches == [
        (31, None), (31, 9), (22, 0), (22, 9), (13, 0), (13, 9), (4, 0), (4, 9), (0, 0), (0, 4),
    ]  # fmt: skip


def test_gauges_are_unset_until_the_first_request() -> None:
    engine = Engine(Settings(100, 100), Even())
    assert engine.begin(0.0) is None
    assert (engine.gauges.queue, engine.gauges.batch) == (None, None)


def test_a_separate_prefill_is_followed_by_a_decode_of_all() -> None:
    engine = Engine(Settings(1000, 1000, chunking=False, max_waiting_tokens=0), Even())
    first, second, third = requests(50, 50, 50)
    engine.submit(first, 0.0)
    methods = []
    for number in range(6):
        step = engine.begin(0.0)
        assert step is not None
        methods.append((step.method, len(step.decoding), step.concat))
        engine.finish(step)
        if number == 1:
            engine.submit(second, 0.0)
        if number == 2:
            engine.submit(third, 0.0)  # comes during the prefill of the second, and waits
    assert methods == [
        ("prefill", 0, None),
        ("decode", 1, None),
        ("prefill", 0, "wait_exceeded"),
        ("decode", 2, None),
        ("prefill", 0, "wait_exceeded"),
        ("decode", 3, None),
    ]


def test_chunking_reads_a_long_prompt_in_parts_beside_the_running() -> None:
    engine = Engine(Settings(1000, 100), Even())
    short, long = Request(10, 50, 50), Request(250, 5, 5)
    engine.submit(short, 0.0)
    step = engine.begin(0.0)
    assert step is not None
    engine.finish(step)
    engine.submit(long, 0.0)
    parts = []
    while long.produced == 0:
        step = engine.begin(0.0)
        assert step is not None
        parts.append((step.method, [tokens for _, tokens in step.prefilling], step.concat))
        engine.finish(step)
    assert parts == [
        ("prefill", [100], "chunking"),
        ("decode", [100], None),
        ("decode", [50], None),
    ]
    assert short.produced == 1 + 3


def test_dropped_requests_make_room() -> None:
    engine = Engine(Settings(30, 100), Even())
    running, queued, last = requests(20, 20, 20)
    for request in (running, queued, last):
        engine.submit(request, 0.0)
    step = engine.begin(0.0)
    assert step is not None
    running.dropped = queued.dropped = True
    assert engine.finish(step) == []
    step = engine.begin(1.0)
    assert step is not None
    assert [request for request, _ in step.prefilling] == [last]
    assert engine.dropped == 2


def test_a_failed_prefill_ends_its_requests() -> None:
    engine = Engine(Settings(100, 100), Even())
    (request,) = requests(5)
    engine.submit(request, 0.0)
    step = engine.begin(0.0)
    assert step is not None
    assert engine.finish(step, failed=True) == [request]
    assert request.failed
    assert engine.begin(0.0) is None
    assert engine.free_tokens == 100


def test_a_small_queue_waits_behind_a_large_batch() -> None:
    """A batch of ten is not interrupted for two (ratio 0.3), until the patience is over."""
    engine = Engine(Settings(10_000, 10_000, chunking=False, max_waiting_tokens=4), Even())
    for request in requests(*[50] * 10):
        engine.submit(request, 0.0)
    step = engine.begin(0.0)
    assert step is not None
    engine.finish(step)
    for request in requests(50, 50):
        engine.submit(request, 0.0)
    seen = []
    for _ in range(5):
        step = engine.begin(0.0)
        assert step is not None
        seen.append((step.method, step.concat))
        engine.finish(step)
    assert seen == [("decode", None)] * 3 + [("prefill", "wait_exceeded"), ("decode", None)]
