"""The runtime of real processes: one actor host a process, messages over libp2p.

The same workers and lead as in process. ``streams`` alone imports hivemind; ``home``,
``launcher`` and ``control`` know neither it nor torch.
"""
