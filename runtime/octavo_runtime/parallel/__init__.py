"""Tensor parallelism: one process per rank, each with its part of every layer, all at the same step.

    engine process, rank 0              worker processes, ranks 1 … N-1
      scheduler, sampler
      LeadingRunner  ──the batch, by a pipe──>  Worker
      Decoder  <──sums, by torch.distributed──>  Decoder

Over several nodes (`--nodes`) the batch goes once to each other node, by TCP, and from there by pipes:

    node 0, the leader                  node 1
      engine process, rank 0 ──TCP──>     Follower, in `octavo serve --node-rank 1`
        └─pipe─> rank 1                     ├─pipe─> rank 2
                                            └─pipe─> rank 3

A worker lives no longer than the engine, and the engine no longer than any of its workers.

    topology, handshake    pure: which rank is where, who is let into a group
    meeting, gathering     the leader waits for the other nodes and starts its own ranks
    joining, follower      another node looks for its leader, and serves it
    workers, remote        rank 0's view of the others
    worker, lockstep       a rank
    messages, frames       what is said, and how it is sent
"""
