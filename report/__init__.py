"""One page a run, for people: what was folded, what it gained, and what that is based on.

Reads the files of a run folder, and writes report.html; of several runs, an index with their frontier. Of the other
stages it imports `trt_bench` alone, which says what a bench.json is.
"""
