"""What the processes of a swarm do with a session: ``launched`` prepares and forks them, ``leader``
leads, ``member`` is a node that joined."""
