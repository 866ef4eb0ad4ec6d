"""The configurations that ship with checkfree; read them, or copy one to start your own."""
