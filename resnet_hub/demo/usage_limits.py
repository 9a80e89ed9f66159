"""Limits on bytes, calls, memory and the queue: for each visitor address, and for all of them together."""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from resnet_hub.demo.visitor import is_loopback

MAX_MEMORY = 256 * 2**20  # bytes of calls that are in memory at once
MAX_MEMORY_EACH = 40 * 2**20  # of one visitor address
MAX_WAITING_CALLS = 64  # calls in Gradio's queue; of one visitor address a quarter
MAX_UNREAD = 100  # calls of a session whose events it has not read
MAX_UNREAD_EACH = 500  # of a visitor address
_FORGET_AFTER = 3600.0  # seconds after which an open call is no longer counted


class Usage(NamedTuple):
    at: float
    address: str
    amount: int


class Budget:
    """The use within the last `seconds`, of each visitor address and of all."""

    def __init__(self, each: float, everyone: float, seconds: float):
        self.each, self.everyone, self.seconds = each, everyone, seconds
        self._lock = threading.Lock()
        self._uses: deque[Usage] = deque()
        self._used: dict[str, int] = defaultdict(int)
        self._total = 0

    def use(self, address: str, amount: int) -> str:
        """Count a use. Returns "each" or "everyone" if it exceeds that budget, and then does not count it."""
        now = time.monotonic()
        with self._lock:
            while self._uses and now - self._uses[0].at > self.seconds:
                old = self._uses.popleft()
                self._total -= old.amount
                self._used[old.address] -= old.amount
                if not self._used[old.address]:
                    del self._used[old.address]
            if self._used.get(address, 0) + amount > self.each:
                return "each"
            if self._total + amount > self.everyone:
                return "everyone"
            last = self._uses[-1] if self._uses else None
            if last and last.address == address and now - last.at < 1:  # a body in many small parts is one use
                self._uses[-1] = last._replace(amount=last.amount + amount)
            else:
                self._uses.append(Usage(now, address, amount))
            self._used[address] += amount
            self._total += amount
        return ""


class MemoryBudget:
    """Bytes of request bodies that are in memory."""

    def __init__(self) -> None:
        self._bytes: Counter[str] = Counter()  # by visitor address

    @contextmanager
    def hold(self, address: str) -> Iterator[Callable[[int], bool]]:
        """Yield a function that reserves bytes, or returns False at the limit; they are released after the block."""
        reserved = 0

        def reserve(amount: int) -> bool:
            nonlocal reserved
            if self._bytes[address] + amount > MAX_MEMORY_EACH or self._bytes.total() + amount > MAX_MEMORY:
                return False
            reserved += amount
            self._bytes[address] += amount
            return True

        try:
            yield reserve
        finally:
            self._bytes[address] -= reserved
            if not self._bytes[address]:
                del self._bytes[address]


class OpenCall(NamedTuple):
    at: float
    address: str
    session: str


class OpenCalls:
    """Calls, by event id, that wait in Gradio's queue or whose events have not been read yet."""

    def __init__(self) -> None:
        self._calls: dict[str, OpenCall] = {}  # the oldest first
        self._waiting: set[str] = set()
        self._started: deque[str] = deque(maxlen=1000)  # some start before the guard has read their id

    def find_exceeded(self, address: str, session: str) -> str:
        """The limit that one more call would exceed: "crowded", "address_calls", or "" for none."""
        now = time.monotonic()
        for event in [event for event, call in self._calls.items() if now - call.at > _FORGET_AFTER]:
            self.remove(event)
        calls = list(self._calls.values())
        unread = sum(call.session == session for call in calls)
        if unread >= MAX_UNREAD or sum(call.address == address for call in calls) >= MAX_UNREAD_EACH:
            return "crowded"
        waiting = sum(self._calls[event].address == address for event in self._waiting)
        if waiting >= MAX_WAITING_CALLS // 4 and not is_loopback(address):
            return "address_calls"
        return "crowded" if len(self._waiting) >= MAX_WAITING_CALLS else ""

    def add(self, event: str, address: str, session: str) -> None:
        """Count a call that Gradio has put into its queue."""
        self._calls[event] = OpenCall(time.monotonic(), address, session)
        if event not in self._started:
            self._waiting.add(event)

    def note_start(self, event: str) -> None:
        self._started.append(event)
        self._waiting.discard(event)

    def remove(self, event: str) -> None:
        self._waiting.discard(event)
        self._calls.pop(event, None)

    def remove_session(self, session: str) -> None:
        """Forget the calls of a session whose stream of events has ended: Gradio drops those that wait, too."""
        for event in [event for event, call in self._calls.items() if call.session == session]:
            self.remove(event)
