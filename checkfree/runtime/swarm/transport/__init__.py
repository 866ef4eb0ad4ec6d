"""How messages travel between processes: frames, streams, the thread that moves them."""
