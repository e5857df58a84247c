"""The benchmarks: `make bench` and `make bench-quick`. How to read them: docs/performance.md."""
