"""The command `visprobe`, which is `python -m visprobe` too."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

_INTERRUPTED = 130
_asked_to_stop = False


def main() -> NoReturn:
    """Run the command line; Ctrl-C ends it with 130 whenever it comes.

    In the middle of an import it can come out as any exception: an extension module that is half imported says that it
    is broken.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is for what runs in the background
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from visprobe.cli.app import main as run

        run()
    except BaseException as error:
        if not _asked_to_stop or (isinstance(error, SystemExit) and error.code in (0, _INTERRUPTED)):
            raise
        print("interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        os._exit(_INTERRUPTED)  # what is half imported may not be able to end in order


def _interrupt(*_: object) -> NoReturn:
    global _asked_to_stop
    _asked_to_stop = True
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
