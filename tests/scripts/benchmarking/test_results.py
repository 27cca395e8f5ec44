"""What is shown of results: tables, slopes, pictures, two files side by side."""

import json

import numpy as np
import pytest

from scripts.benchmarking import chart, compare, machine, scaling, table


def test_the_table_has_ratios_and_the_better_of_timms_layouts(row):
  rows = [
    row(peak_memory_bytes=3 * 2**20, gflops_per_second=40.0, share_of_ceiling=0.25),
    row('timm', 1.0),
    row('timm-contiguous', 0.75),
    row('timm', 2.0, batch=4),
    row('published', batch=4, failed='no room'),
  ]
  del rows[-1]['median']
  lines = table.cells(rows)
  places = {name: i for i, name in enumerate(lines[0])}
  ratios = {line[places['contestant']]: line[places['x ours']] for line in lines[1:5]}
  assert ratios == {'ours': '1.00', 'timm': '2.00', 'timm-contiguous': '1.50', 'timm best': '1.50'}
  assert [lines[1][places[name]] for name in ('ms', 'MiB', 'GFLOP/s', 'of ceiling')] == [
    '500', '3', '40.0', '25%',
  ]  # fmt: skip
  assert lines[5][places['x ours']] == '-'  # ours was not measured there
  assert [line[places['x timm']] for line in lines[1:6]] == ['0.67', '1.33', '1.00', '1.00', '1.00']
  assert lines[6][-1] == 'failed: no room'
  columns = table.text(lines).splitlines()
  assert {line.index('predict') for line in columns[1:]} == {columns[0].index('task')}
  cells = {line.count('|') for line in table.markdown(lines).splitlines()}
  assert cells == {len(lines[0]) + 1}


def test_slopes_of_powers(row):
  rows = [
    row(name, factor * size**power, size=size, batch=batch)
    for name, factor, power in (('ours', 1e-6, 2.0), ('timm', 1e-5, 1.5))
    for size in (96, 192, 384)
    for batch in (1, 8)
  ]
  found = {(one['contestant'], one['title']): one for one in scaling.series(rows)}
  assert len(found) == 4
  assert {one['against'] for one in found.values()} == {'size'}
  for (name, _), one in found.items():
    np.testing.assert_allclose(one['slope'], {'ours': 2.0, 'timm': 1.5}[name])
  assert 'time of ours grows as size^2.00 over 96 to 384' in scaling.slopes(rows)
  figure = chart.draw(rows)
  assert [axes.get_title() for axes in figure.axes] == [
    'F0 predict, batch 1', 'F0 predict, batch 8',
  ]  # fmt: skip
  assert all(len(axes.get_lines()) >= 2 for axes in figure.axes)


def test_bars_are_as_long_as_the_ratios(row, tmp_path):
  figure = chart.draw([row(), row('published', 1.5), row('timm', 0.25)], 'a machine')
  (axes,) = figure.axes
  assert sorted(bar.get_width() for bar in axes.patches) == [0.5, 3.0]
  figure.savefig(tmp_path / 'bars.png')
  alone = chart.draw([row()])
  assert [bar.get_width() for bar in alone.axes[0].patches] == [500]
  with pytest.raises(ValueError, match='nothing was measured'):
    chart.draw([])


def test_two_files_side_by_side(row, benchmark, capsys, tmp_path):
  old = {
    'versions': {'jax': '1'},
    'results': [row(), row('timm', 0.8), row('published', 1.0), row(batch=16)],
  }
  new = {
    'versions': {'jax': '2'},
    'results': [row(median=0.25), row('timm', 0.8 / 1.05), row('published'), row(batch=32)],
  }
  del new['results'][2]['median']
  for name, results in (('a', old), ('b', new)):
    (tmp_path / name).write_text(json.dumps(results))
  assert benchmark.main(['--compare', str(tmp_path / 'a'), str(tmp_path / 'b')]) == 0
  output = capsys.readouterr().out
  lines = {line.split()[4]: line.split() for line in output.splitlines() if 'F0  ' in line}
  assert lines['ours'][5:8] == ['500', '250', '2.000']
  assert 'within' not in lines['ours']
  assert lines['timm'][7] == '1.050'
  assert 'within' in lines['timm']
  assert 'published failed in b' in output
  assert 'only a has F0 predict 16 x 64 px, ours' in output
  assert 'only b has F0 predict 32 x 64 px, ours' in output
  assert 'versions differ in jax: 1 and 2' in output


@pytest.mark.parametrize('content', [None, 'text', '{}', '[1]', '{"results": [{"model": "F0"}]}'])
def test_what_is_no_file_of_results_is_a_sentence(tmp_path, content):
  if content is not None:
    (tmp_path / 'a').write_text(content)
  with pytest.raises(ValueError, match=r'(cannot be read|is not a file that --out wrote)'):
    compare.read(tmp_path / 'a')


def test_the_command_is_noted_without_folders():
  found = machine.command(['F0', '--peer-python', '/a/b/python', '--out=/c/d.json'])
  assert found == 'nfnets benchmark F0 --peer-python python --out=d.json'
