"""The Python of README and docs runs, and prints what the pages say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.pages import examples, run

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where files may be written, with the repository's sources at the same place."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("page", [p for p in PAGES if list(examples(p))], ids=lambda p: p.name)
def test_examples_run_and_print_what_the_page_says(page: Path) -> None:
    for example, printed in run(page):
        if example.output is not None:
            assert printed == example.output, f"{page.name}:{example.line}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert missing == []
