#!/usr/bin/env bash
# Everything that should hold before a release: lint, all tests, the site and the packages.
#   ./scripts/check.sh
# Takes long, and needs a package index: the slow tests build the documentation site, build the
# sdist and the wheel, and install the wheel into an empty environment.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if ! python -c 'import material, mkdocs, mkdocstrings_handlers.python' 2>/dev/null; then
  echo 'Installing what the documentation site needs.' >&2
  python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt \
    --editable '.[docs]' >&2
fi
ruff check .
ruff format --check .
python -m pytest -n 2 --dist loadfile
# One at a time: they use all cores themselves. The site and the packages are among them.
exec python -m pytest -m slow
