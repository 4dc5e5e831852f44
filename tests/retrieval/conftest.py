"""A folder of documents, with all that can go wrong in one, and its passages."""

import os
from pathlib import Path

import pytest
import torch

from zoo.retrieval import Library

GUIDE = """\
# Keeping bees

A hive wants a dry place. The entrance looks to the south-east.

## Winter

In winter the bees eat honey. Do not open the hive when it is cold.

```python
# no heading, a comment
```

## Swarms

A swarm leaves in May. The old queen goes with it.
"""
PAGE = """\
<!DOCTYPE html>
<html><head><title>Trains</title>
<style>
p { color: red }
</style></head>
<body><h1>Trains</h1>
<p>The night train to <b>Vienna</b> leaves at ten.</p><p>Tickets &amp; seats
are sold at the station.</p>
<script>
var hidden = "<p>nothing</p>";
</script>
<p>Bicycles travel free.</p>
</body></html>
"""


@pytest.fixture(scope="session")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four documents; a link out, one within, and six files that are none."""
    root = tmp_path_factory.mktemp("retrieval")
    folder = root / "docs"
    (folder / "more" / "deep").mkdir(parents=True)
    (folder / "bees.md").write_text(GUIDE, encoding="utf-8")
    (folder / "trains.html").write_text(PAGE, encoding="utf-8")
    (folder / "more" / "soup.txt").write_bytes(b"Soup needs salt.\r\nAdd it at the end.\r\n")
    (folder / "more" / "deep" / "README").write_text("\ufeffThe key is under the mat.\n")
    (folder / "photo.png").write_bytes(b"\x89PNG\r\n")
    (folder / "binary.txt").write_bytes(b"text\0and more")
    (folder / "latin.txt").write_bytes("Käse".encode("latin-1"))
    (folder / "empty.md").write_text(" \n\n---\n")
    (folder / ".hidden.md").write_text("Not shown.\n")
    os.mkfifo(folder / "pipe.txt")
    (root / "secret.txt").write_text("The password is swordfish.\n")
    (folder / "out.txt").symlink_to(root / "secret.txt")
    (folder / "loop").symlink_to(folder)
    return folder


@pytest.fixture(scope="session")
def library(docs: Path) -> Library:
    """Words alone."""
    return Library.of(docs)


@pytest.fixture(scope="session")
def encoded(docs: Path) -> Library:
    """Words, and meaning as a bundled encoder sees it."""
    torch.set_num_threads(1)
    return Library.of(docs, "emotion-encoder")
