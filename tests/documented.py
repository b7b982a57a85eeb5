"""What pages say of the files that commands write."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def documented_columns(page, heading):
    """Names in the first column of the table under a heading, in their order."""
    _, _, after = (DOCS / page).read_text().partition(f"\n### {heading}\n")
    section = re.split(r"\n##", after)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert rows, f"{page} has no table of columns under {heading!r}"
    return [name for cell in rows for name in re.findall(r"`([^`]+)`", cell)]
