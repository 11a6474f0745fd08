"""A process that has everything imported, and forks one that runs a command for each line it is sent.

So a command starts in milliseconds and not in the seconds that PyTorch's import takes, and a test can kill many.
Lines in: a JSON list of the command's words, or a number of a process to wait for. Lines out: its number, its status.
"""

import json
import os
import sys


def main() -> None:
    from counterpoise import cli
    from counterpoise.commands import compare, train  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            print(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.setsid()
            log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(log, stream)
            cli.main(asked["words"])
        print(pid, flush=True)


if __name__ == "__main__":
    main()
