"""Long runs that look for what only repetition shows: leaks, lost streams, memory that grows.

`make soak`, or `PYTHONPATH=e2e python -m soak kills --runner sim --count 5`. One machine, no cluster, no root, but for
`spread` and `images`, which run a node.
"""
