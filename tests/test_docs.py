"""The code of the documentation runs as it stands, with fewer batches."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [path.name for path in sorted(DOCS.glob("*.md")) if "```python" in path.read_text("utf-8")]


def test_docs__pages_with_code():
    assert "write_your_own_network.md" in PAGES


@pytest.mark.parametrize("page", PAGES)
def test_docs__code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    code = "\n".join(blocks)
    short = re.sub(r'"num_batches": \d+', '"num_batches": 2, "batch_size": 5', code)
    assert short != code
    names = {}
    exec(compile(short, page, "exec"), names)
    assert names["log_probabilities"].shape == (3, 2)


def test_docs__networks_are_ten_lines():
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "write_your_own_network.md").read_text("utf-8"), re.DOTALL):
        if "ops.log_softmax" in block:
            assert len([line for line in block.splitlines() if line]) <= 10


def test_docs__links_lead_somewhere():
    for path in (DOCS / "write_your_own_network.md", DOCS / "exchangeability.md"):
        for link in re.findall(r"\]\(([\w/.]+\.md)\)", path.read_text("utf-8")):
            assert (path.parent / link).exists(), link
