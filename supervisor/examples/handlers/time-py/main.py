import datetime

import menagerie


@menagerie.export("handler@1")
def get(path: str) -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{path}: it is {now:%H:%M} UTC\n"
