"""What MkDocs does to pages when it builds the site.

Formulas become MathML for the browser, inline code breaks at spaces and not at hyphens, cells with
much text and wide figures keep a width at which they can be read, and the fields of configs/base.py
become a table.
"""

import ast
import html
import pathlib
import re

from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
_FIELDS = '<!-- The fields of configs/base.py. -->'

# What pymdownx.arithmatex writes in generic mode: \(...\) in a span and \[...\] in a div.
_FORMULA = re.compile(
  r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>(?P<after>[,.;:)]*)',
  re.DOTALL,
)
_INLINE_CODE = re.compile(r'<code>([^<]*[^<\s])</code>')  # a block of code ends with a new line
_CODE_BREAK = re.compile(r'(?<=[/_,=(])(?![/_.,=(])|(?<=\.)(?=[a-z])')  # where long words may break
_CELL = re.compile(r'<td>(.*?)</td>', re.DOTALL)
_FIGURE = re.compile(r'<img [^>]*src="[^"]*?(?P<name>[^"/]+\.(?:png|jpg))"[^>]*>')
_QUOTE = re.compile(r'<blockquote>.*?</blockquote>', re.DOTALL)
_FLAG = re.compile(r'--[a-z][\w.]*(?:=[\w…]+)?')
_LONGEST_CODE, _LONGEST_IN_CELL = 36, 12  # characters that fit a line of a phone
_SHORT_CELL, _LONG_CELL = 8, 30  # characters
_WIDE_FIGURE = 1000  # pixels


def on_page_markdown(markdown: str, **_) -> str:
  """Returns the page's text with the table of fields where its mark is."""
  if _FIELDS not in markdown:
    return markdown
  return markdown.replace(_FIELDS, fields_table((ROOT / 'configs/base.py').read_text()))


def on_page_content(page_html: str, **_) -> str:
  """Returns the page with its formulas as MathML, and with marks for assets/site.css."""
  page_html = _FORMULA.sub(_to_mathml, page_html)
  page_html = _CELL.sub(_prepare_cell, page_html)
  page_html = _QUOTE.sub(
    lambda quote: _FLAG.sub(r'<span class="whole">\g<0></span>', quote[0]), page_html
  )
  page_html = _FIGURE.sub(_mark_wide_figure, page_html)
  return _INLINE_CODE.sub(_keep_words_whole, page_html)


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


def _keep_words_whole(match: re.Match, longest: int = _LONGEST_CODE) -> str:
  """Inline code of which the short words, or the parts of long ones, are not broken."""
  if len(html.unescape(match[1])) <= longest:
    return f'<code class="whole">{match[1]}</code>'
  words = []
  for word in match[1].split():
    parts = [word] if len(html.unescape(word)) <= longest else _CODE_BREAK.split(word)
    words.append('<wbr>'.join(f'<span class="whole">{part}</span>' for part in parts))
  return f'<code>{" ".join(words)}</code>'


def _prepare_cell(match: re.Match) -> str:
  """A table's cell, marked if it is short or long, whose code may break at more places."""
  length, prose = (
    len(html.unescape(re.sub(pattern, '', match[1], flags=re.DOTALL)))
    for pattern in (r'<[^>]*>', r'<code>.*?</code>|<[^>]*>')
  )
  mark = ' class="long"' if prose > _LONG_CELL else ''
  if length <= _SHORT_CELL:  # a number with its unit
    mark = ' class="whole"'
  inside = _INLINE_CODE.sub(lambda code: _keep_words_whole(code, _LONGEST_IN_CELL), match[1])
  return f'<td{mark}>{inside}</td>'


def _mark_wide_figure(match: re.Match) -> str:
  path = ROOT / 'docs/figures' / match['name']
  if not path.exists():
    return match[0]
  with Image.open(path) as figure:
    wide = figure.width > _WIDE_FIGURE
  return f'<span class="wide-figure">{match[0]}</span>' if wide else match[0]


def _to_mathml(match: re.Match) -> str:
  from latex2mathml import converter

  display = 'inline' if match['tag'] == 'span' else 'block'
  drawn = converter.convert(html.unescape(match['tex']).strip(), display=display)
  # A full stop or comma stays on the formula's line.
  return f'<{match["tag"]} class="arithmatex">{drawn}{match["after"]}</{match["tag"]}>'
