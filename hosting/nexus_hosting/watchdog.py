"""Interrupts plugin code that holds the event loop for too long, and looks now and then at how much memory each plugin has.

A thread looks at the watch every 50 ms and sends the main thread a signal whose handler raises `Overran` there. Code in C that never gives
the interpreter up (a regular expression that backtracks) stops that thread with everything else, but not a timer of the system's, which
counts the process' CPU time and sends the same signal: the handler runs wherever such code looks for signals.

The handler raises in a plugin's code, or in what that calls, and nowhere else: it goes by the frames that it finds, not by the watch
alone, so that a call that ends at the same moment is not blamed on its caller. In code of ours that a plugin called it waits for the next
time: that is soon over, and may hold a lock.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import types
from time import monotonic
from typing import TYPE_CHECKING, Any

from nexus_hosting import memory
from nexus_hosting.bounds import Overran
from nexus_hosting.watching import Watch, watch

if TYPE_CHECKING:
    from nexus_hosting.running import Running

log = logging.getLogger("nexus.plugins")

EVERY_S = 0.05
CPU_S = 0.25
"""Of CPU time, between two signals of the timer: a few microseconds of each."""
BLOCK_S = 1.0
"""For whoever is on the watch without a budget."""
SIGNAL = signal.SIGVTALRM
PLUGIN_FILES = "<_nexus_plugin_"
_OURS = ("nexus_", "logging", "importlib")


class Watchdog:
    """One for a process, as signals are. It runs while plugins do."""

    def __init__(self, watched: Watch = watch) -> None:
        self._watch = watched
        self._running: dict[int, Running] = {}
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._sends = False
        self._said = False
        self._case: tuple[int, float] = (0, 0.0)
        self._attempts = 0
        self._memory = memory.Rounds()
        self.interrupts = 0

    def add(self, running: Running) -> None:
        """Look after a plugin, too. Called on the event loop that it runs on."""
        self._running[id(running)] = running
        self._loops[id(running)] = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(SIGNAL) != self.handle:
                signal.signal(SIGNAL, self.handle)
                signal.siginterrupt(SIGNAL, False)
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S, CPU_S)
            self._sends = True
        elif not self._said:
            self._said = True
            log.warning(
                "plugins run on an event loop that is not the main thread's: one that blocks it is reported, and not interrupted"
            )
        if self._thread is None:
            self._wake = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._wake,), name="plugin watchdog", daemon=True)
            self._thread.start()

    def remove(self, running: Running) -> None:
        """Look after it no more. The thread ends with the last."""
        self._running.pop(id(running), None)
        self._loops.pop(id(running), None)
        if not self._running and self._thread is not None:
            if self._sends and threading.current_thread() is threading.main_thread():
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            # The handler stays: without one, a signal on its way would end the process.
            self._wake.set()
            self._thread = None

    def handle(self, _: int, frame: types.FrameType | None) -> None:
        """Raise `Overran` if the frame is a plugin's that has had its time. The signal's handler."""
        seen = self._watch
        who, since = seen.who, seen.since
        if who is None:
            return
        took, limit = monotonic() - since, block_s(who)
        if took <= limit or (place := find_place(frame)) is None:
            return
        if self._case != (id(who), since):
            self._case, self._attempts = (id(who), since), 0
        self._attempts += 1
        self.interrupts += 1
        if self._attempts > 1:
            self._press(frame, since)
        raise Overran(
            f"it held the event loop for {took:.2f} s, at {place}, and was interrupted; budgets.blockSeconds is {limit:g}"
        )

    def _press(self, frame: types.FrameType | None, since: float) -> None:
        """Interrupt code that goes on whatever it is told: raise once more, in what it does with what was raised, a line later each time.

        A loop around a `try` that catches everything has lines outside of it; sooner or later it is one of these.
        """
        if sys.gettrace() is not None:
            return  # somebody else's, such as a debugger
        left = self._attempts - 1

        def trace(at: types.FrameType, event: str, _: Any) -> Any:
            nonlocal left
            if self._watch.who is None or self._watch.since != since:
                sys.settrace(None)
                return None
            if event == "line" and at.f_code.co_filename.startswith(PLUGIN_FILES):
                left -= 1
                if left <= 0:
                    raise Overran("it went on after it was interrupted")
            return trace

        sys.settrace(trace)
        while frame is not None:
            if frame.f_code.co_filename.startswith(PLUGIN_FILES):
                frame.f_trace = trace
            frame = frame.f_back

    def _run(self, wake: threading.Event) -> None:
        main = threading.main_thread().ident
        told: tuple[int, float] = (0, 0.0)
        while not wake.wait(EVERY_S):
            seen = self._watch
            who, since = seen.who, seen.since
            if who is not None and monotonic() - since > block_s(who):
                if told != (id(who), since):
                    told = (id(who), since)
                    log.warning("plugin %s holds the event loop for %.2f s", name_of(who), monotonic() - since)
                if self._sends and main is not None:
                    signal.pthread_kill(main, SIGNAL)
            if self._memory.is_due(monotonic()):
                self._measure(wake)

    def _measure(self, wake: threading.Event) -> None:
        for key, running in list(self._running.items()):
            # The loop may be blocked meanwhile: the watch is looked at between two slices of the walk.
            try:
                size = memory.measure(running, pause=lambda: self._between(wake))
            except Exception as error:  # it walks what others change meanwhile; the watch goes on
                log.warning("the memory of plugin %s could not be measured: %r", running.instance.id, error)
                continue
            if size is None:
                continue
            running.memory_bytes = size
            limit = running.instance.budgets.memory_mb * 2**20
            loop = self._loops.get(key)
            if not limit or size <= limit or loop is None or wake.is_set():
                continue
            log.warning(
                "plugin %s holds %d MB of memory; budgets.memoryMegabytes is %d",
                running.instance.id,
                size // 2**20,
                running.instance.budgets.memory_mb,
            )
            tell = running.over_memory
            if tell is not None:
                try:
                    loop.call_soon_threadsafe(tell, running, size)
                except RuntimeError:
                    return  # the loop is closed, and its plugins with it

    def _between(self, wake: threading.Event) -> bool:
        """Rest; return whether to go on."""
        if wake.wait(memory.REST_S):
            return False
        seen = self._watch
        who, since = seen.who, seen.since
        if who is not None and self._sends and monotonic() - since > block_s(who):
            signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
        return True


def block_s(who: object) -> float:
    """Return how long whoever is on the watch may hold the loop, in seconds."""
    instance = getattr(who, "instance", None)
    return float(instance.budgets.block_s) if instance is not None else BLOCK_S


def name_of(who: object) -> str:
    """Return the plugin's id."""
    return str(getattr(getattr(who, "instance", None), "id", who))


def find_place(frame: types.FrameType | None) -> str | None:
    """Return `file line n` of the plugin's code that this frame is of, or was called by; None where nothing may be raised."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PLUGIN_FILES):
            return f"{file.partition('>/')[2]} line {frame.f_lineno}"
        if str(frame.f_globals.get("__name__", "")).startswith(_OURS):
            return None
        frame = frame.f_back
    return None


watchdog = Watchdog()
"""Of this process."""
