"""Map the exceptions of onnxruntime and CUDA to the errors of oodscreen.

In: an exception of onnxruntime. Out: an `EngineFailed` with a next step. The codes of failures are the numbers of
`cudaError_t` in the CUDA runtime API.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from export.errors import EngineFailed, OutOfMemory


@dataclass(frozen=True)
class _Failure:
    """A kind of failure, and how it is recognised.

    Attributes:
        codes: numbers in texts such as "CUDA failure 2: out of memory".
        texts: parts of the text of the exception, in lower case.
        found, wanted, next_step: the parts of the error; in `found`, `{device}` stands for the name of the device.
        error: class of the error.
    """

    codes: tuple[int, ...]
    texts: tuple[str, ...]
    found: str
    wanted: str
    next_step: str
    error: type[EngineFailed] = EngineFailed


_FAILURES = (
    _Failure(
        (2,),
        (
            *("failed to allocate memory", "is smaller than requested bytes", "out of memory"),
            *("bad_alloc", "bad allocation", "alloc_failed", "allocation_failed"),
        ),
        "Memory ran out on the device {device}",
        "enough memory for the tensors of one session run",
        "lower --memory or --threads, or use a machine with more memory",
        OutOfMemory,
    ),
    _Failure(
        (35,),
        ("driver version is insufficient",),
        "The NVIDIA driver is too old for the CUDA version of onnxruntime",
        "a driver that supports this CUDA version",
        "update the NVIDIA driver (`oodscreen doctor` prints the versions), or use --device cpu",
    ),
    _Failure(
        (802, 803, 804),
        ("forward compatibility was attempted", "system has unsupported display driver"),
        "The NVIDIA driver and the CUDA libraries on this machine are not compatible",
        "a driver whose libraries and kernel module have the same version",
        "restart the machine after an update of the driver, or use --device cpu",
    ),
    _Failure(
        (38, 100, 101),
        ("no cuda-capable device", "invalid device ordinal", "match any available gpus"),
        "CUDA does not find the device {device}",
        "a GPU that this process may use",
        "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use --device cpu",
    ),
    _Failure(
        (46,),
        ("devices are busy or unavailable",),
        "Another process uses the device {device} exclusively",
        "a GPU in the compute mode Default",
        "wait for the other process, choose another GPU with --device cuda:N, or use --device cpu",
    ),
    _Failure(
        (209,),
        ("no kernel image is available",),
        "onnxruntime has no kernels for the GPU {device}",
        "a GPU whose compute capability this build of onnxruntime supports",
        "use another GPU, or --device cpu",
    ),
    _Failure(
        (),
        (
            *("cannot open shared object file", "cudnn frontend", "cudnn_status_not_initialized"),
            *("cudnn_status_sublibrary", "cudnn_status_version_mismatch", "unable to find symbol cudnn"),
        ),
        "A library of CUDA or cuDNN is missing, or has a version that onnxruntime cannot use",
        "the CUDA and cuDNN libraries for this version of onnxruntime",
        "pip install 'oodscreen[cuda]', or use --device cpu",
    ),
    _Failure(
        (3, 214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999),
        (
            *("illegal memory access", "unspecified launch failure", "misaligned address", "device-side assert"),
            *("uncorrectable ecc", "gpu is lost", "fallen off the bus", "_status_execution_failed"),
        ),
        "The GPU failed, and this process can no longer use it (device {device})",
        "a GPU that runs until the end of the command",
        "run the same command again to continue after the finished shards; if the GPU fails again, look for Xid "
        "messages in the system log (`dmesg`), or use --device cpu",
    ),
)


@contextmanager
def map_errors(device: str) -> Iterator[None]:
    """Map onnxruntime's exceptions to `OutOfMemory` and `EngineFailed`.

    Args:
        device: name of the device.

    Raises:
        OutOfMemory: the device has too little free memory.
        EngineFailed: onnxruntime failed for another reason.
    """
    try:
        yield
    except Exception as error:
        raise explain_failure(error, device) or EngineFailed(
            f"onnxruntime failed on the device {device}: {shorten_failure(error)}",
            wanted="a model that this version of onnxruntime can run on this device",
            next_step=("" if device == "cpu" else "use --device cpu; if that fails too, ")
            + "report this error together with the model",
        ) from error


def explain_failure(error: Exception, device: str) -> EngineFailed | None:
    """The error of oodscreen for an exception of onnxruntime; None if the failure is not recognised.

    Args:
        error: the exception.
        device: name of the device.
    """
    text = str(error).strip()
    code = re.search(r"CUDA failure (\d+)", text)
    for failure in _FAILURES:
        known = code is not None and int(code[1]) in failure.codes
        known = known or any(one in text.lower() for one in failure.texts)
        if known or (isinstance(error, MemoryError) and failure.error is OutOfMemory):
            return failure.error(
                f"{failure.found.format(device=device)}: {shorten_failure(error)}",
                wanted=failure.wanted,
                next_step=failure.next_step,
            )
    return None


def shorten_failure(error: Exception) -> str:
    """The part of an exception's text that names the failure: the CUDA failure if there is one, else the first line."""
    text = str(error).strip()
    failure = re.search(r"(CUDA|CUBLAS|CUDNN|CUDNN_FE) failure \d+: [^;\n]+", text)
    if failure is not None:
        return failure[0].strip()
    return text.splitlines()[0] if text else type(error).__name__
