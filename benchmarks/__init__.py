"""Side-by-side measurements of what this toolchain claims about its own speed, on the CPU.

    python -m benchmarks

They run from a checkout and may import everything; nothing else imports them. A benchmark is a function that takes a
callback for its progress and returns rows (`benchmarks.measure.Row`); `benchmarks.__main__` lists them by name.
"""
