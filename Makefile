# The project's tasks. Each line can be typed by itself.
.PHONY: check test bench docs

check: # what CI runs before the tests
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test:
	pytest

bench: # minutes; sets up the peers at the first run
	python -m benchmarks.speed --write docs/reports/benchmarks.md

docs: # the commands' output in the pages, then the site in site/
	python docs/refresh.py
	mkdocs build --strict
