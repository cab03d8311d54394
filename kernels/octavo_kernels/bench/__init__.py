"""What a run on a GPU (kernels/bench/gpu.py) needs no GPU for: shapes, statistics, the cost model and the report."""
