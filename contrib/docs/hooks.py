"""For mkdocs: the pages that lie at the top of the project are pages as the others are, and the style lies beside this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ABOVE = ("README.md", "CHANGELOG.md")
STYLE = "tables.css"


def on_files(files: Files, *, config: Any) -> Files:
    """Add them to what is built."""
    top = Path(config.docs_dir).parent
    for name in ABOVE:
        # README.md would become the first page.
        files.append(File.generated(config, name.lower(), abs_src_path=str(top / name)))
    files.append(File.generated(config, STYLE, abs_src_path=str(Path(__file__).with_name(STYLE))))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Make links between the top and docs/ links between neighbours."""
    del config, files
    is_above = page.file.src_uri in (name.lower() for name in ABOVE)
    for name in ABOVE:
        markdown = markdown.replace(f"]({'' if is_above else '../'}{name}", f"]({name.lower()}")
    return markdown.replace("](docs/", "](") if is_above else markdown
