"""Builds the site from what lies outside of `docs` too, without a network.

The notebooks and the figures of pages are added to it, and formulas become MathML, which browsers
show by themselves.
"""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FIGURE = re.compile(r"\]\(\.\./(results/[^)\s]+\.png)\)")
CODE = re.compile(r"(<(?:pre|script|style|code)\b.*?</(?:pre|script|style|code)>)", re.DOTALL)
LINK = re.compile(r'href="(?P<path>\w+\.ipynb|\.\./docs/[\w/-]+\.md)(?P<anchor>#[\w-]+)?"')
FORMULA = re.compile(r"\$\$(?P<block>[^$]+)\$\$|\$(?P<inline>[^$\n]+)\$")


@event_priority(100)  # before the plugin that renders notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the site, with notebooks and figures."""
    docs = Path(config.docs_dir)
    pages = [page.read_text(encoding="utf-8") for page in docs.rglob("*.md")]
    figures = {figure for text in pages for figure in FIGURE.findall(text)}
    notebooks = {f"notebooks/{path.name}" for path in docs.parent.glob("notebooks/*.ipynb")}
    for name in sorted(figures | notebooks):
        files.append(File(name, str(docs.parent), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page, with its figures where the site has them."""
    return FIGURE.sub(r"](\1)", markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page, with the formulas of a notebook as MathML and its links to the other pages."""
    if not page.file.src_uri.endswith(".ipynb"):
        return content
    parts = CODE.split(LINK.sub(lambda link: site_link(link, page, files), content))
    return "".join(
        part if number % 2 else FORMULA.sub(mathml, part) for number, part in enumerate(parts)
    )


def site_link(link: re.Match[str], page: Page, files: Files) -> str:
    """A notebook's link to another notebook, or to a page in the folder `docs`, in the site."""
    path = link["path"].removeprefix("../docs/")
    target = files.get_file_from_path(path if path.endswith(".md") else f"notebooks/{path}")
    if target is None:
        raise PluginError(f"{page.file.src_uri} links to {link['path']}, which is no page")
    return f'href="{target.url_relative_to(page.file)}{link["anchor"] or ""}"'


def mathml(formula: re.Match[str]) -> str:
    """A formula between dollar signs as MathML."""
    kind = "block" if formula["block"] else "inline"
    return convert(html.unescape(formula[kind]), display=kind)
