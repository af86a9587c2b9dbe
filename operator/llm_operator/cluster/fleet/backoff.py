"""How long a container waits before it is started again.

The kubelet's rule: the first restart is at once, then `initial`, doubling up to `ceiling`, counted
from the container's end; all is forgiven when a run has lasted twice the ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backoff:
    """Seconds. Kubernetes has initial=10, ceiling=300."""

    initial: float
    ceiling: float
    _delay: float = 0.0

    def after(self, ran_for: float) -> float:
        """The delay after a run of `ran_for` seconds that just ended."""
        if ran_for > 2 * self.ceiling:
            self._delay = 0.0
        delay = self._delay
        self._delay = min(self.ceiling, max(self.initial, 2 * delay))
        return delay
