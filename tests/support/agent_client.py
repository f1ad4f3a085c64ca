"""The test's handle of an agent in another process (see ``agent.py``)."""

from __future__ import annotations

import contextlib
import pickle
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

from tests.support.environment import PATIENCE
from tests.support.processes import Child
from tests.support.waiting import wait_asleep

_MESSAGE_BYTES = 1 << 20
_MOST_FDS = 16


class AgentDied(AssertionError):
    """The agent ended although its answer was waited for."""


class Pending:
    """A command that was given and may not have been answered yet."""

    def __init__(self, agent: AgentHandle, number: int, verb: str) -> None:
        self._agent = agent
        self._number = number
        self._verb = verb
        self.thread_id: int | None = None
        self.answer: dict[str, Any] | None = None
        self.descriptors: list[int] = []

    def __repr__(self) -> str:
        return f"<{self._verb} #{self._number} of {self._agent}>"

    def done(self) -> bool:
        self._agent.read_answers(0)
        return self.answer is not None

    def result(self, patience: float = PATIENCE) -> Any:
        """What the command returned; raises what it raised, the very exception."""
        deadline = time.monotonic() + patience
        while self.answer is None:
            self._agent.read_or_fail(deadline, self)
        if "error" in self.answer:
            error: BaseException = pickle.loads(self.answer["error"])
            error.add_note(f"in {self._agent}:\n{self.answer['text']}")
            raise error
        return self.answer["result"]

    def wait_begun(self) -> Pending:
        deadline = time.monotonic() + PATIENCE
        while self.thread_id is None and self.answer is None:
            self._agent.read_or_fail(deadline, self)
        return self

    def wait_asleep(self) -> Pending:
        """Returns when the command's thread sleeps in it; fails if it has ended instead."""
        self.wait_begun()
        assert self.thread_id is not None
        wait_asleep(self._agent.child.pid, self.thread_id, give_up=self.done)
        if self.done():
            raise AssertionError(f"{self} should wait, but answered {self.answer!r}")
        return self


class AgentHandle:
    """An agent; ``close`` kills it, whatever it is doing."""

    def __init__(self, child: Child, control: socket.socket, name: str) -> None:
        self.child = child
        self.name = name
        self.peer_id = -1
        self._control = control
        self._pending: dict[int, Pending] = {}
        self._number = 0

    def __repr__(self) -> str:
        return f"<agent {self.name} pid {self.child.pid}>"

    def start(
        self, verb: str, *, thread: bool = False, fds: Sequence[int] = (), **arguments: Any
    ) -> Pending:
        """Gives a command without waiting for its answer."""
        self._number += 1
        pending = Pending(self, self._number, verb)
        self._pending[self._number] = pending
        command = {
            "number": self._number,
            "verb": verb,
            "thread": thread,
            "arguments": arguments,
        }
        with contextlib.suppress(BrokenPipeError):  # the answer will tell that it has died
            socket.send_fds(self._control, [pickle.dumps(command)], list(fds))
        return pending

    def call(self, verb: str, *, fds: Sequence[int] = (), **arguments: Any) -> Any:
        """Gives a command and waits for its result."""
        return self.start(verb, fds=fds, **arguments).result()

    def call_with_descriptors(self, verb: str, **arguments: Any) -> tuple[Any, list[int]]:
        """For commands that hand out descriptors; the caller closes them."""
        pending = self.start(verb, **arguments)
        return pending.result(), pending.descriptors

    def read_answers(self, seconds: float) -> bool:
        """Takes in what has arrived; False when there was nothing within ``seconds``."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        if not poller.poll(max(0.0, seconds) * 1000):
            return False
        try:
            data, fds, _flags, _address = socket.recv_fds(self._control, _MESSAGE_BYTES, _MOST_FDS)
        except ConnectionResetError:
            return False
        if not data:
            return False
        answer = pickle.loads(data)
        pending = self._pending[answer["number"]]
        if "begun" in answer:
            pending.thread_id = answer["begun"]
        else:
            pending.answer = answer
            pending.descriptors = list(fds)
            del self._pending[answer["number"]]
        return True

    def read_or_fail(self, deadline: float, pending: Pending) -> None:
        """One more answer, or an exception that says why there will be none."""
        if self.read_answers(min(0.2, deadline - time.monotonic())):
            return
        if self.child.has_ended():
            while self.read_answers(0):
                pass
            if pending.answer is None:
                status = self.child.wait()
                raise AgentDied(f"{pending}: status {status}\n{self.child.read_stderr()}")
        elif time.monotonic() > deadline:
            raise AssertionError(f"{pending} did not answer in time{self.where_it_is()}")

    def where_it_is(self) -> str:
        """The agent's Python stacks, as faulthandler prints them on SIGUSR1."""
        self.child.signal(signal.SIGUSR1)
        time.sleep(0.2)  # for the reader of a failure: nothing tells when it has been printed
        return f"; its stderr:\n{self.child.read_stderr()}"

    def interrupt(self) -> None:
        self.child.signal(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone."""
        self.child.kill_and_wait()

    def leave(self, code: int = 0) -> None:
        """Ends the program in good order and checks that it did."""
        self.call("leave", code=code)
        status = self.child.wait()
        assert status == code, f"{self}: status {status}\n{self.child.read_stderr()}"

    def close(self) -> None:
        self.child.close()
        self._control.close()
