"""The runtime of real processes: one actor host a process, messages over libp2p.

The same workers and lead as in process. ``leader_process`` hosts the lead and ``seat`` one worker;
``faults`` makes a trace's failures real. ``transport`` carries the messages, ``presence`` judges
who is here, ``processes`` starts and ends them on one machine, ``joining`` lets other machines in.
"""
