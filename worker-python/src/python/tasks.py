"""Runs a lane's `async` functions: one event loop per lane."""

import _menagerie
import asyncio
import contextvars
import threading

# The call that a task serves; the tasks that it starts inherit it.
_serving = contextvars.ContextVar("menagerie.serving", default=0)

# Seconds; out of the grace that a call has.
_CLEAN_UP = 0.1

# The driver of the lane whose thread this is.
_current = threading.local()


class Driver:
    def __init__(self):
        self.loop = asyncio.new_event_loop()
        # Not a task factory: that is the bundle's to set.
        self._create_task = self.loop.create_task
        self.loop.create_task = self._create_step
        asyncio.set_event_loop(self.loop)
        self.in_hook = False
        self._calls = {}
        self._waiting = False
        self._exits = _Exits()
        _current.driver = self

    def _create_step(self, coroutine, **options):
        """`create_task`, for a task whose code can be interrupted."""
        if asyncio.iscoroutine(coroutine) and not isinstance(coroutine, _menagerie.Step):
            context = options.get("context")
            token = _serving.get() if context is None else context.get(_serving, 0)
            coroutine = _menagerie.Step(coroutine, token, True)
        return self._create_task(coroutine, **options)

    def is_closed(self):
        """Whether the bundle has closed the loop."""
        return self.loop.is_closed()

    def start(self, token, coroutine):
        """Begins a call; `_menagerie.finish` is told when it has ended."""
        context = contextvars.copy_context()
        context.run(_serving.set, token)
        task = self.loop.create_task(_menagerie.Step(coroutine, token, False), context=context)
        self._calls[token] = task
        task.add_done_callback(lambda task: self._done(token, task))

    def _done(self, token, task):
        self._calls.pop(token, None)
        if task.cancelled():
            _menagerie.finish(token, asyncio.CancelledError(), None)
        else:
            error = _exception(task)
            _menagerie.finish(token, error, None if error is not None else task.result())

    def poll(self):
        """Runs what is ready; true while a task is left."""
        self.loop.call_soon(self.loop.stop)
        with self._exits:
            self.loop.run_forever()
        return bool(self._calls) or bool(asyncio.all_tasks(self.loop))

    def wait(self, fd):
        """Runs until `fd` is readable, or a task exits."""
        self.loop.add_reader(fd, self.loop.stop)
        self._waiting = True
        try:
            with self._exits:
                self.loop.run_forever()
        finally:
            self._waiting = False
            self.loop.remove_reader(fd)

    def leave_wait(self):
        """Ends `wait`: after a blocking call its `fd` does not become readable."""
        if self._waiting:
            self.loop.stop()

    def run(self, coroutine):
        """Runs a hook to its end."""
        self.in_hook = True
        try:
            task = self.loop.create_task(coroutine)
            task.add_done_callback(lambda task: self.leave_wait())
            while not task.done():
                _menagerie.wait_for_answers(self.wait)
        finally:
            self.in_hook = False
        error = _exception(task)
        if error is not None:
            raise error
        return task.result()

    def cancel(self, token, task_first):
        """Called on any thread. A task of it that was told may clean up first, and end:
        awaited by its call, it would be cancelled with it."""
        if task_first:
            later = (self.loop.call_later, _CLEAN_UP, self._cancel, token)
            self.loop.call_soon_threadsafe(*later)
        else:
            self.loop.call_soon_threadsafe(self._cancel, token)

    def _cancel(self, token):
        task = self._calls.get(token)
        if _menagerie.cancelling(token) and task is not None:
            task.cancel()

    def close(self):
        loop = self.loop
        _current.driver = None
        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                # A task may refuse to be cancelled; the unload does not wait for it.
                ended = loop.create_task(asyncio.wait(tasks, timeout=1))
                while not ended.done():
                    with self._exits:
                        loop.run_until_complete(ended)
            loop.run_until_complete(loop.shutdown_asyncgens())
            executor = getattr(loop, "_default_executor", None)
            if executor is not None:
                # Not waited for: what a bundle's thread does may never end.
                executor.shutdown(wait=False, cancel_futures=True)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


class Exit(Exception):
    """Carries a SystemExit or KeyboardInterrupt out of the task of a call or hook:
    bare, asyncio would let it leave the loop, and with it all other calls."""


class _Exits:
    """A SystemExit or KeyboardInterrupt of a task that the bundle has started leaves
    the loop, which can go on: who awaits the task has it as well. That of a callback
    goes on to the log."""

    def __enter__(self):
        pass

    def __exit__(self, kind, error, traceback):
        return isinstance(error, (SystemExit, KeyboardInterrupt)) and _menagerie.ended_a_task(error)


def _exception(task):
    """What a call or hook raised."""
    error = task.exception()
    return error.__cause__ if isinstance(error, Exit) else error


def call(contract, function, args):
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    driver = getattr(_current, "driver", None)
    if driver is None or driver.loop is not loop or driver.in_hook:
        # The lane takes no calls meanwhile: a chain that would come back is refused
        # if the call blocks. And in a loop of the bundle's own nobody else would
        # receive the answer.
        try:
            future.set_result(_menagerie.call(contract, function, args))
        except Exception as error:
            future.set_exception(error)
        return future

    def resolve(error, value):
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    _menagerie.call_async(contract, function, args, resolve, _serving.get())
    return future
