"""From a verb to the CUDA driver's door: Triton's own launcher, with a driver that writes down what it is asked.

Nothing is computed, since there is no GPU behind it. What is seen is all that comes before: arguments as a compiled
kernel wants them, tensor maps within the hardware's rules, grids, threads and shared memory. In a process of its own:
in this one kernels are interpreted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import triton

from octavo_kernels.aot.figures import SHARED_PER_BLOCK
from octavo_kernels.shipping import launcher

# By the driver's documentation of cuTensorMapEncodeTiled; what it does not allow is refused here as well.
DRIVER = r"""
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
static FILE *told(void) { return fopen(getenv("TOLD"), "a"); }
CUresult cuDeviceGetAttribute(int *found, CUdevice_attribute name, CUdevice device) { *found = 227 << 10; return 0; }
CUresult cuFuncGetAttribute(int *found, CUfunction_attribute name, CUfunction function) { *found = 1024; return 0; }
CUresult cuCtxGetCurrent(CUcontext *found) { *found = (CUcontext)1; return 0; }
CUresult cuModuleGetFunction(CUfunction *found, CUmodule module, const char *name) {
  FILE *out = told();
  fprintf(out, "{\"loaded\": \"%s\"}\n", name);
  fclose(out);
  *found = (CUfunction)1;
  return 0;
}
CUresult cuPointerGetAttribute(void *found, CUpointer_attribute name, CUdeviceptr pointer) {
  *(CUdeviceptr *)found = pointer;
  return 0;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction function, void **arguments, void **extra) {
  FILE *out = told();
  fprintf(out, "{\"grid\": [%u, %u, %u], \"threads\": %u, \"shared\": %u, \"first\": %llu}\n", c->gridDimX, c->gridDimY,
          c->gridDimZ, c->blockDimX, c->sharedMemBytes, *(unsigned long long *)arguments[0]);
  fclose(out);
  return 0;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                const cuuint64_t *size, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  FILE *out = told();
  fprintf(out, "{\"map\": %llu, \"type\": %d, \"size\": [%llu, %llu], \"stride\": %llu, \"box\": [%u, %u]}\n",
          (unsigned long long)address, type, (unsigned long long)size[0], (unsigned long long)size[1],
          (unsigned long long)strides[0], box[0], box[1]);
  fclose(out);
  int bytes = type == CU_TENSOR_MAP_DATA_TYPE_UINT8 ? 1 : 2;
  int most = swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128 : swizzle == CU_TENSOR_MAP_SWIZZLE_64B ? 64 : 256;
  if (rank != 2 || (unsigned long long)address % 16 || strides[0] % 16 || box[0] > 256 || box[1] > 256 ||
      box[0] * bytes % 16 || box[0] * bytes > most)
    return CUDA_ERROR_INVALID_VALUE;
  return 0;
}
"""
CALLS = """
import json, sys
import torch
from triton.backends.nvidia import driver as nvidia
from triton.runtime import driver
sys.path.insert(0, sys.argv[1])
import cuda_utils
nvidia.compile_module_from_file = lambda **_: cuda_utils
played = object.__new__(nvidia.CudaDriver)
played.utils, played.launcher_cls = nvidia.CudaUtils(), nvidia.CudaLauncher
played.get_current_device, played.get_current_stream = (lambda: 0), (lambda _: 0)
played.get_device_capability = lambda _: (9, 0)
driver.set_active(played)

from octavo_kernels.interface import PagedBatch
from octavo_kernels.triton.backend import TritonBackend

def attend(queries, context, block_size):
    blocks = -(-context // block_size)
    cache = torch.zeros(blocks, 2, block_size, 64, dtype=torch.float16)
    query = torch.zeros(queries, 8, 64, dtype=torch.float16)
    batch = PagedBatch(
        query_start_loc=torch.tensor([0, queries], dtype=torch.int32),
        seq_lens=torch.tensor([context], dtype=torch.int32),
        block_table=torch.arange(blocks, dtype=torch.int32)[None],
        slot_mapping=torch.arange(queries),
        max_query_len=queries,
        max_seq_len=context,
    )
    TritonBackend().attend(query, cache, cache, batch, scale=0.125, out=torch.empty_like(query))
    print(json.dumps({"query": query.data_ptr(), "cache": cache.data_ptr(), "rows": cache.numel() // 64}), flush=True)

attend(1, 300, 16)
attend(128, 300, 64)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What was asked of the driver, and where the tensors were, for a decode and a prefill."""
    folder = tmp_path_factory.mktemp("driver")
    module = launcher.build(folder)
    asked = subprocess.run(["nm", "-D", "--undefined-only", module], capture_output=True, text=True, check=True).stdout
    others = set(re.findall(r"\b(cu[A-Z]\w+)", asked)) - set(re.findall(r"CUresult (cu\w+)\(", DRIVER))
    (folder / "others.c").write_text("".join(f"int {name}() {{ return 0; }}\n" for name in sorted(others)))
    (folder / "driver.c").write_text(DRIVER)
    headers = f"-I{Path(triton.__file__).parent / 'backends/nvidia/include'}"
    build = ["cc", "-shared", "-fPIC", headers, "-Wl,-soname,libcuda.so.1", folder / "driver.c", folder / "others.c"]
    subprocess.run([*build, "-o", folder / "libcuda.so.1"], check=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    paths = {name: str(folder) for name in ("LD_LIBRARY_PATH", "TRITON_LIBCUDA_PATH", "TRITON_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, folder],
        env=kept | paths | {"TOLD": str(folder / "told")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "told").read_text().splitlines()]
    return lines, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_decode_and_a_prefill_reach_the_driver(told):
    lines, (decode, prefill) = told
    launches = [line for line in lines if "grid" in line]
    assert [line["loaded"] for line in lines if "loaded" in line] == ["paged_attention_kernel", "merge_kernel"] * 2
    assert [launch["threads"] for launch in launches] == [128, 128, 256, 128]
    assert [launches[i]["first"] for i in (0, 2)] == [decode["query"], prefill["query"]]
    assert all(0 < launch["shared"] <= SHARED_PER_BLOCK[90] for launch in (launches[0], launches[2]))
    assert all(min(launch["grid"]) > 0 for launch in launches)


def test_boxes_are_tensor_maps_of_the_caches(told):
    """Of a prefill alone: keys and values, as rows of one head each, fp16."""
    lines, (_, prefill) = told
    maps = [line for line in lines if "map" in line]
    assert len(maps) == 2
    for one in maps:
        assert one["map"] == prefill["cache"]
        assert (one["size"], one["stride"]) == ([64, prefill["rows"]], 128)
        assert one["box"] == [64, 64]
