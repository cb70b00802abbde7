.PHONY: quality style test docs tables

quality:  ## lint, format and types, without changing anything
	ruff check .
	ruff format --check .
	mypy

style:  ## mend what can be mended
	ruff check --fix .
	ruff format .

test:
	pytest

tables:  ## write the tables of all pages anew from results/
	python -m experiments.tables

docs:  ## the site, in build/site; a broken link is an error
	rm -rf build/pages build/site
	mkdir -p build/pages
	cp -r README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff LICENSE docs examples results build/pages
	zensical build --strict
