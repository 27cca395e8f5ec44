"""scripts/mkdocs_hooks.py: where code may break, and the marks of long cells and wide figures."""

from scripts import mkdocs_hooks


def _page(html):
  return mkdocs_hooks.on_page_content(html)


def test_short_code_stays_on_one_line():
  assert _page('<code>--config.num_epochs=8</code>') == (
    '<code class="whole">--config.num_epochs=8</code>'
  )


def test_long_code_breaks_at_spaces_and_in_long_words_but_not_at_hyphens_or_in_numbers():
  words = _page('<code>nvidia-smi --query-gpu=driver_version\n--format=csv</code>')
  assert words == (
    '<code><span class="whole">nvidia-smi</span> '
    '<span class="whole">--query-gpu=driver_version</span> <span class="whole">--format=csv</span>'
    '</code>'
  )
  rate = _page('<code>--config.finetune.learning_rate_of_it=0.004</code>')
  parts = ('--config.', 'finetune.', 'learning_', 'rate_', 'of_', 'it=', '0.004')
  assert (
    rate == f'<code>{"<wbr>".join(f"""<span class="whole">{p}</span>""" for p in parts)}</code>'
  )


def test_blocks_of_code_are_left_alone():
  block = (
    '<pre><code>nfnets train --config=finetune --config.data.dir=DIR --workdir=runs\n</code></pre>'
  )
  assert _page(block) == block


def test_cells_are_marked_by_length_and_their_code_breaks_earlier():
  text = 'what this field does, said in more words than fit a narrow column'
  cells = _page(f'<td>{text}</td><td>neither of these</td><td>286 MB</td>')
  assert cells == (
    f'<td class="long">{text}</td><td>neither of these</td><td class="whole">286 MB</td>'
  )
  cell = _page('<td><code>--config.optimizer.learning_rate=0.1</code></td>')
  assert cell.startswith('<td><code>')
  assert '>optimizer.</span><wbr>' in cell


def test_flags_in_quoted_messages_stay_whole():
  quoted = _page('<blockquote><p>set --config.finetune.new_head=True for</p></blockquote>')
  assert 'set <span class="whole">--config.finetune.new_head=True</span> for' in quoted


def test_figures_with_several_panels_may_scroll():
  wide = '<img alt="" src="../figures/signal_propagation.png">'
  assert _page(wide) == f'<span class="wide-figure">{wide}</span>'
  for other in ('../figures/accuracy_flops.png', 'https://example.org/badge.png'):
    assert _page(f'<img src="{other}">') == f'<img src="{other}">'
