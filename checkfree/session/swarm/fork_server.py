"""``python -m checkfree.session.swarm.fork_server PID HOME``: that of the launcher with that pid.

What is wrong with an order, or with what is installed here, is told in one line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from checkfree.core.errors import BadInput, RunFailed, cannot_write
from checkfree.runtime.parent import die_with_parent
from checkfree.runtime.swarm.processes.fork_server import Channel
from checkfree.runtime.swarm.processes.workdir import Workdir


def main(pid: int, folder: Path) -> None:
    """Its whole life."""
    channel, workdir = Channel(), Workdir(folder)
    die_with_parent(pid)
    heard = channel.hear()
    if not heard:
        return
    try:
        from checkfree.session.swarm.launched import raise_children

        raise_children(channel, heard[0], workdir)
    except BadInput as error:
        channel.tell({"bad": str(error)})
    except ImportError as error:
        channel.tell({"bad": cannot_import(error)})
    except RunFailed as error:
        channel.tell({"failed": str(error)})
    except OSError as error:
        channel.tell({"failed": str(cannot_write(workdir.run, error))})


def cannot_import(error: ImportError) -> str:
    """One line."""
    told = " ".join(str(error).split())[:200]
    return f"what a swarm needs can't be imported ({told}): pip install 'checkfree[swarm]'"


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
