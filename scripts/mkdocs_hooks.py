"""What mkdocs does to pages when it builds the site: formulas become MathML for the browser."""

import html
import re

from latex2mathml import converter

# What pymdownx.arithmatex writes in generic mode: \(...\) in a span and \[...\] in a div.
_FORMULA = re.compile(
  r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(page_html: str, **_) -> str:
  """Returns the page with its formulas as MathML; mkdocs calls this by its name."""
  return _FORMULA.sub(_to_mathml, page_html)


def _to_mathml(match: re.Match) -> str:
  display = 'inline' if match['tag'] == 'span' else 'block'
  drawn = converter.convert(html.unescape(match['tex']).strip(), display=display)
  return f'<{match["tag"]} class="arithmatex">{drawn}</{match["tag"]}>'
