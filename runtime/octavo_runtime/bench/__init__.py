"""`octavo bench`: the engine in process, any server over HTTP, plain transformers, and two results side by side.

    flags.py     the command line                      load.py       when requests come: open loop, closed loop, at once
    command.py   one run, from flags to a JSON line    prompts.py    what they say, by seed or from a file
    online.py    over HTTP: http_client.py, answer.py  stats.py      records -> percentiles, throughput, cost
    offline.py   scheduler and runner, no HTTP         compare.py    two results -> a table of ratios
    naive.py     transformers' generate                stamp.py      versions and machine

Pure: load, prompts, stats, compare, answer. The others are shells.
"""
