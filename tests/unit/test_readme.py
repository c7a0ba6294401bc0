"""The README tells the truth."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_its_example_is_the_one_that_runs() -> None:
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert block[1].strip() == (ROOT / "examples/library.py").read_text().strip()


def test_its_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make ([a-z-]+)", README))
    assert {"demo", "test", "setup", "daemon", "check", "bench"} <= named
    for task in named:
        assert re.search(rf"^{task}:", makefile, re.MULTILINE), task


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
