"""Suites of training runs: methods by seeds on one corpus, run side by side, resumed, and reported."""
