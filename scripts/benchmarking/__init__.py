"""The parts of scripts/benchmark.py. Its workers run in processes of their own."""
