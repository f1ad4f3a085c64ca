"""When a plugin that died is started again: the policy, and what one replica has used of it.

Pure arithmetic on times; knows nothing of processes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

__all__ = ["RestartHistory", "RestartPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How often and how fast a replica that died is started again.

    The first restart comes at once: most deaths are single events, and calls are waiting.

    Attributes:
        max_restarts: restarts of one replica within `window`; the next death is final. 0: never
            restart, None: always.
        window: seconds.
        backoff: seconds before the second restart within `window`.
        backoff_factor: each further one waits this many times longer,
        backoff_max: but never longer than this, in seconds.

    Raises:
        ValueError: a value out of range; the message says which.
    """

    max_restarts: int | None = 5
    window: float = 60.0
    backoff: float = 0.1
    backoff_factor: float = 2.0
    backoff_max: float = 10.0

    def __post_init__(self) -> None:
        if self.max_restarts is not None and (
            not isinstance(self.max_restarts, int) or self.max_restarts < 0
        ):
            raise ValueError(
                f"RestartPolicy: max_restarts must be a whole number from 0, or None for no "
                f"limit, not {self.max_restarts!r}"
            )
        for name, low in (("window", 0), ("backoff", 0), ("backoff_factor", 1), ("backoff_max", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value < math.inf:
                raise ValueError(
                    f"RestartPolicy: {name} must be a number from {low}, not {value!r}"
                )


class RestartHistory:
    """The restarts of one replica. One thread uses it."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self.total = 0
        self._times: deque[float] = deque()

    def next_delay(self, now: float) -> float | None:
        """Count one more restart: seconds to wait before it, or None: no more.

        Args:
            now: seconds, of a clock that never goes back.
        """
        policy = self.policy
        while self._times and self._times[0] <= now - policy.window:
            self._times.popleft()
        recent = len(self._times)
        if policy.max_restarts is not None and recent >= policy.max_restarts:
            return None
        self._times.append(now)
        self.total += 1
        if recent == 0:
            return 0.0
        # The exponent is bounded: with max_restarts=None it would overflow some day.
        growth = policy.backoff_factor ** min(recent - 1, 64)
        return min(policy.backoff * growth, policy.backoff_max)
