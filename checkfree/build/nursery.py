"""``python -m checkfree.build.nursery PID HOME``: the nursery of the launcher with that pid.

What is wrong with an order, or with what is installed here, is told in one line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from checkfree.errors import BadInput, RunFailed, cannot_write
from checkfree.runtime.parent import die_with_parent
from checkfree.runtime.swarm.processes.home import Home
from checkfree.runtime.swarm.processes.nursery import Leash


def main(pid: int, folder: Path) -> None:
    """Its whole life."""
    leash, home = Leash(), Home(folder)
    die_with_parent(pid)
    heard = leash.hear()
    if not heard:
        return
    try:
        from checkfree.build.swarm import raise_children

        raise_children(leash, heard[0], home)
    except BadInput as error:
        leash.tell({"bad": str(error)})
    except ImportError as error:
        leash.tell({"bad": cannot_import(error)})
    except RunFailed as error:
        leash.tell({"failed": str(error)})
    except OSError as error:
        leash.tell({"failed": str(cannot_write(home.run, error))})


def cannot_import(error: ImportError) -> str:
    """One line."""
    told = " ".join(str(error).split())[:200]
    return f"what a swarm needs can't be imported ({told}): pip install 'checkfree[swarm]'"


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
