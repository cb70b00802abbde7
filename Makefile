.PHONY: quality style test

quality:  ## lint, format and types, without changing anything
	ruff check .
	ruff format --check .
	mypy

style:  ## mend what can be mended
	ruff check --fix .
	ruff format .

test:
	pytest
