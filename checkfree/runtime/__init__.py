"""Runtimes host actors and carry their messages; nothing else differs between them."""
