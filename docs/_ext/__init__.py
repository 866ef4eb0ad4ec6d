"""What Sphinx makes pages of: the code, and Markdown that stands elsewhere in the repository."""
