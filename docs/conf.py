"""How Sphinx builds the site: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "checkfree"
author = "The checkfree authors"
extensions = [
    "myst_parser",
    "_ext.configuration",
    "_ext.ladder",
    "_ext.commands",
    "_ext.phases",
    "_ext.python_names",
    "_ext.repository",
]
exclude_patterns = ["_ext"]

html_theme = "furo"
html_title = "checkfree"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

smartquotes = False  # "--resume" is no dash
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
