"""What MkDocs does to pages when it builds the site.

Formulas become MathML for the browser, short inline code stays on one line, and the fields of
configs/base.py become a table.
"""

import ast
import html
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
_FIELDS = '<!-- The fields of configs/base.py. -->'

# What pymdownx.arithmatex writes in generic mode: \(...\) in a span and \[...\] in a div.
_FORMULA = re.compile(
  r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_INLINE_CODE = re.compile(r'<code>([^<\n]{1,36})</code>')


def on_page_markdown(markdown: str, **_) -> str:
  """Returns the page's text with the table of fields where its mark is."""
  if _FIELDS not in markdown:
    return markdown
  return markdown.replace(_FIELDS, fields_table((ROOT / 'configs/base.py').read_text()))


def on_page_content(page_html: str, **_) -> str:
  """Returns the page with its formulas as MathML, and short code that is not broken."""
  page_html = _FORMULA.sub(_to_mathml, page_html)
  return _INLINE_CODE.sub(r'<code class="whole">\1</code>', page_html)


def fields_table(source: str) -> str:
  """Returns a Markdown table of the fields that a config file sets, with its comments."""
  lines = source.splitlines()
  meaning = ''
  rows = ['| `--config.` | default | meaning |', '|---|---|---|']
  for statement in ast.walk(ast.parse(source)):
    if not isinstance(statement, ast.Assign):
      continue
    name = ast.unparse(statement.targets[0])
    default = ast.unparse(statement.value)
    if not name.startswith('config.'):
      continue
    if default == 'ConfigDict()' and not name.endswith(('.spec', '.learning_rate_multipliers')):
      continue  # a section
    default = 'None' if 'placeholder' in default else default.replace('ConfigDict()', '{}')
    meaning = _comment(lines, statement) or meaning  # fields may share one comment
    cells = (f'`{name.removeprefix("config.")}`', f'`{default}`', meaning)
    rows.append(f'| {" | ".join(cell.replace("|", "&#124;") for cell in cells)} |')
  return '\n'.join(rows)


def _comment(lines: list[str], statement: ast.Assign) -> str:
  """The comment above a statement and the one behind it."""
  above = []
  for line in reversed(lines[: statement.lineno - 1]):
    if not line.strip().startswith('#'):
      break
    above.insert(0, line.strip().removeprefix('#').strip())
  behind = lines[statement.end_lineno - 1][statement.end_col_offset :].strip()
  words = ' '.join([*above, behind.removeprefix('#').strip()]).strip()
  return html.escape(words[:1].upper() + words[1:], quote=False)


def _to_mathml(match: re.Match) -> str:
  from latex2mathml import converter

  display = 'inline' if match['tag'] == 'span' else 'block'
  drawn = converter.convert(html.unescape(match['tex']).strip(), display=display)
  return f'<{match["tag"]} class="arithmatex">{drawn}</{match["tag"]}>'
