"""Pure cores of the runtime: blocks, scheduler, layout. Ints in, ints out; no clock, no I/O, no tensors."""
