"""The device on which sessions run: the CPU or a GPU.

In: `--device`, `--threads`, `--precision` and `--memory`. Out: a `Device`, and sessions with tensors on the device.
"""
