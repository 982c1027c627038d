"""Runs a lane's `async` functions: one event loop per lane."""

import _menagerie
import asyncio
import contextvars

# The call that a task serves; the tasks that it starts inherit it.
_serving = contextvars.ContextVar("menagerie.serving", default=0)


class Driver:
    def __init__(self):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self._calls = {}

    def start(self, token, coroutine):
        """Begins a call; `_menagerie.finish` is told when it has ended."""
        context = contextvars.copy_context()
        context.run(_serving.set, token)
        task = self.loop.create_task(_menagerie.Step(coroutine, token), context=context)
        self._calls[token] = task
        task.add_done_callback(lambda task: self._done(token, task))

    def _done(self, token, task):
        self._calls.pop(token, None)
        if task.cancelled():
            _menagerie.finish(token, asyncio.CancelledError(), None)
        else:
            error = task.exception()
            if isinstance(error, Exit):
                error = error.__cause__
            _menagerie.finish(token, error, None if error is not None else task.result())

    def poll(self):
        """Runs what is ready; true while a task is left."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        return bool(self._calls) or bool(asyncio.all_tasks(self.loop))

    def wait(self, fd):
        """Runs until `fd` is readable."""
        self.loop.add_reader(fd, self.loop.stop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.remove_reader(fd)

    def run(self, coroutine):
        """Runs a hook to its end."""
        return self.loop.run_until_complete(coroutine)

    def cancel(self, token):
        """Called on any thread."""
        self.loop.call_soon_threadsafe(self._cancel, token)

    def _cancel(self, token):
        task = self._calls.get(token)
        if task is not None:
            task.cancel()

    def close(self):
        loop = self.loop
        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                # A task may refuse to be cancelled; the unload does not wait for it.
                loop.run_until_complete(asyncio.wait(tasks, timeout=1))
            loop.run_until_complete(loop.shutdown_asyncgens())
            executor = getattr(loop, "_default_executor", None)
            if executor is not None:
                # Not waited for: what a bundle's thread does may never end.
                executor.shutdown(wait=False, cancel_futures=True)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


class Exit(Exception):
    """Carries a SystemExit or KeyboardInterrupt out of a task: bare, asyncio
    would let it end the loop, and with it all other calls."""


def call(contract, function, args):
    future = asyncio.get_running_loop().create_future()

    def resolve(error, value):
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    _menagerie.call_async(contract, function, args, resolve, _serving.get())
    return future
