"""Settings of one `octavo serve`, resolved once at start and never edited."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003  msgspec reads the annotation at run time


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What the user asked for. `None` means: decided from the model and the machine when it is known."""

    model: Path  # of a remote model: where it is once it has been fetched
    remote: str | None = None  # hf://… or s3://…, to be fetched before the engine starts
    download_dir: Path | None = None  # where it goes; default: $OCTAVO_MODEL_CACHE or ~/.cache/octavo/models
    host: str = "0.0.0.0"  # noqa: S104  a server in a pod listens on all of the pod's addresses
    port: int = 8000
    served_model_name: str | None = None  # default: the model's folder or file name
    max_model_len: int | None = None  # tokens; default: what the model was trained for
    dtype: str = "auto"  # auto | float32 | bfloat16 | float16
    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None  # tokens per step; default: what suits the device (Runner.step_tokens)
    kv_cache_memory: int | float | None = None  # bytes, or a share (float < 1) of free memory; default: the device's
    kv_cache_dtype: str = "auto"  # auto: as the model computes | fp8_e4m3 | int8
    block_size: int = 16  # tokens
    prefix_caching: bool = True  # keep computed blocks for requests that start alike
    async_scheduling: bool | None = None  # plan a step while the one before is computed; default: on a GPU
    speculative_ngram: int = 0  # tokens guessed ahead from the sequence itself; 0: none
    attention_backend: str = "auto"  # auto | reference | cpu | triton
    enforce_eager: bool = False  # launch each kernel of each step by itself, also on a GPU
    max_cudagraph_capture_size: int | None = (
        None  # sequences in the largest captured step; default: max_num_seqs or 256
    )
    tensor_parallel_size: int = 1  # processes that divide each layer, one per GPU
    nodes: int = 1  # machines or pods that these processes are spread over, equally many on each
    node_rank: int = 0  # this one's number; 0 is the leader, which alone serves the API
    leader_address: str | None = None  # host name or IP address of node 0
    leader_port: int = 29500  # where it takes in the others; where the ranks meet is the next port
    group_timeout: float = 1800.0  # seconds that nodes wait for each other at the start
    threads: int | None = None  # default: the cgroup's CPU quota
    drain_timeout: float = 120.0  # seconds for running streams to finish after SIGTERM
    drain_delay: float = 5.0  # seconds after SIGTERM in which new requests are still served while endpoints propagate
    max_queued_requests: int = 1024  # accepted requests beyond max_num_seqs; more get a 503
    max_queued_tokens: int | None = None  # prompt tokens that wait to be computed; what would pass it gets a 503
    max_engine_restarts: int = 5  # deaths of the engine within 10 minutes that are mended; one more ends the server
    max_body_size: int = 1 << 20  # bytes of a request body
    stall_limit: float = 60.0  # seconds without a sign of life from the engine after which /livez and /readyz fail
    startup_stall_limit: float = 600.0  # the same while the model loads
    runner: str = "torch"  # torch | sim
    sim_step_time: float = 0.0  # seconds; how long the sim runner takes for a step
    sim_profile: Path | None = None  # how long its steps take, fitted to measurements
