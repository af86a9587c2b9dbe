"""Proof that the tests would notice: break one thing at a time in a copy, and see them red.

    python tests/mutations.py [WORD]        only the mutations whose name has the word

Not part of `make test`. Exits with 1 if a mutation survives, or is not possible any more.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("operator", "tests", "crds", "examples", "docs", "charts", "benchmarks")
PACKAGE = "operator/llm_operator"


@dataclass(frozen=True)
class Mutation:
    """In `file`, `old` becomes `new`; then at least one of `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


ACCEPTED = "tests/contract/test_runtimes_accepted.py"
MUTATIONS = (
    Mutation(
        "parser: a flag that is unknown is passed over",
        "cluster/tgi/args.py",
        "raise UsageError(f\"unexpected argument '--{name}' found\")",
        "return",
        "tests/contract/test_simtgi_launcher.py",
    ),
    Mutation(
        "parser: one shard too many",
        "cluster/tgi/launcher.py",
        "shards = asked",
        "shards = asked + 1",
        "tests/contract/test_simtgi_launcher.py",
    ),
    Mutation(
        "memory: there is always enough",
        "cluster/tgi/warmup.py",
        "if taken > total * wish.fraction:",
        "if False:",
        "tests/unit/test_simtgi_startup.py",
    ),
    Mutation(
        "memory: everything takes three times as much",
        "cluster/tgi/warmup.py",
        "taken = load.weight_bytes +",
        "taken = 3 * load.weight_bytes +",
        ACCEPTED,
    ),
    Mutation(
        "arguments: shards and GPUs differ",
        "runtimes/tgi.py",
        'yield "--num-shard", str(plan.tensor_parallel)',
        'yield "--num-shard", "2"',
        ACCEPTED,
    ),
    Mutation(
        "arguments: an option that the engine does not have",
        "runtimes/tgi.py",
        'yield "--usage-stats", "off"',
        'yield "--usage-statistics", "off"',
        ACCEPTED,
    ),
    Mutation(
        "arguments: room for half the tokens that were planned",
        "runtimes/tgi.py",
        'yield "--max-total-tokens", str(plan.max_total_tokens)',
        'yield "--max-total-tokens", str(plan.max_total_tokens // 2)',
        ACCEPTED,
    ),
    Mutation(
        "loop: the echo of a write causes a pass",
        "reconcile/loop.py",
        "elif not self.store.put(item):\n            return",
        "elif not self.store.put(item):\n            pass",
        "tests/unit/test_loop.py",
    ),
    Mutation(
        "loop: a foreign child is adopted",
        "reconcile/writer.py",
        "if controller_uid(answer) != owner_uid:\n                raise",
        "if False:\n                raise",
        "tests/unit/test_writer.py tests/unit/test_reconciler.py",
    ),
    Mutation(
        "loop: the record is left out of an apply",
        "reconcile/rollouts.py",
        "if kept is not None:",
        "if kept is not None and kept is not one.record:",
        "tests/unit/test_reconciler.py",
    ),
    Mutation(
        "status: an engine's words are repeated",
        "status/causes.py",
        'text = f"the engine ended with exit code {fact.exit_code}"',
        "text = fact.message",
        "tests/unit/test_causes.py tests/unit/test_conditions.py",
    ),
    Mutation(
        "store: the last word counts as the newest",
        "kube/store.py",
        "if known is not None and known.version >= entry.version:",
        "if False:",
        "tests/unit/test_store.py",
    ),
)


def is_noticed(mutation: Mutation, copy: Path) -> bool:
    """Whether the tests fail on the mutated copy; it is put right again."""
    file = copy / PACKAGE / mutation.file
    before = file.read_text()
    if mutation.old not in before:
        raise SystemExit(f"{mutation.name}: {mutation.file} has no {mutation.old!r} any more")
    file.write_text(before.replace(mutation.old, mutation.new, 1))
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        done = subprocess.run([*command, *mutation.tests.split()], cwd=copy, capture_output=True)
        return done.returncode == 1
    finally:
        file.write_text(before)


def main(word: str = "") -> int:
    """Try them; the exit code."""
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, copy / name)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for mutation in MUTATIONS:
            if word in mutation.name:
                noticed = is_noticed(mutation, copy)
                survivors += not noticed
                print("red " if noticed else "SURVIVES", mutation.name, flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
