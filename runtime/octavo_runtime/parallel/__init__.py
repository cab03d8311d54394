"""Tensor parallelism: one process per rank, each with its part of every layer, all at the same step.

    engine process, rank 0              worker processes, ranks 1 … N-1
      scheduler, sampler
      LeadingRunner  ──the batch, by a pipe──>  Worker
      Decoder  <──sums, by torch.distributed──>  Decoder

A worker lives no longer than the engine, and the engine no longer than any of its workers.
"""
