#!/usr/bin/env bash
# Lint, then the tests (the import-order test among them). Arguments are passed on to pytest.
# With another Python than that of .venv: NFNETS_PYTHON=python3.13 ./scripts/test.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ruff check .
ruff format --check .
# Two processes, a file each at a time: most of the time goes into compiling small programs.
exec python -m pytest -n 2 --dist loadfile "$@"
