# One entry for developers. Each recipe is plain shell: without `just`, copy its line.

# Style and generated files
lint:
    .venv/bin/ruff check . && .venv/bin/ruff format --check .
    .venv/bin/python -m codegen --check && .venv/bin/python deploy/grafana/dashboards.py --check && .venv/bin/python docs/reference.py --check

# Strict types
types:
    .venv/bin/mypy

# All tests, or `just test tests/bridge -k claim`
test *arguments:
    .venv/bin/pytest {{arguments}}

# What a change should pass before it is pushed: pure logic, contracts, scripts
quick:
    .venv/bin/pytest -m 'quick and not long' -n 2

# Throughput, chain and latency beside the last figures
bench *arguments:
    .venv/bin/python -m tests.benchmarks {{arguments}}

# Write the generated pages
docs:
    .venv/bin/python -m codegen && .venv/bin/python docs/reference.py
