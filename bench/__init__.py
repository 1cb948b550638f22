"""The figures of docs/performance.md. Each prints one JSON object; `python -m bench` prints all."""
