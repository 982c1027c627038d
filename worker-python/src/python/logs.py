"""Routes the standard library's `logging` into the bundles' logs."""

import _menagerie


def install(logging):
    class Handler(logging.Handler):
        def emit(self, record):
            try:
                _menagerie.log(_level(record.levelno), f"logging.{record.name}", self.format(record))
            except Exception:
                self.handleError(record)

    logging.root.addHandler(Handler())
    logging.root.setLevel(logging.INFO)


def _level(number):
    if number < 10:
        return "trace"
    if number < 20:
        return "debug"
    if number < 30:
        return "info"
    if number < 40:
        return "warn"
    return "error"
