"""How the processes of one run find each other: from a TPU pod's environment, or from what the command line says."""

import glob
import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Mapping

import jax

from qr_jax import config
from qr_jax.parallel import mesh

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
METADATA_S = 5  # how long to wait for a TPU VM's metadata server
TIMES_OURS = 4  # jax's own deadline for a silent process, in ours: the watchdog, which says more, must come first


def begin(
    settings: config.Mesh,
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Let the CPU show its devices and, where there are several processes, start jax's multi-controller runtime.

    With all three of `coordinator` (HOST:PORT, of process 0), `processes` and `process` as they say; without them on a
    TPU pod as its environment says; else this process is alone. Call it before anything runs in jax. ValueError when
    only some of the three are given or they contradict one another.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(f"{', '.join(missing)} missing; give all of {', '.join(given)}, or none of them")
    own_s = max(100, int(TIMES_OURS * settings.heartbeat_s))
    if coordinator is None or processes is None or process is None:
        mesh.emulate(settings.devices)
        if workers(environment) > 1:
            jax.distributed.initialize(heartbeat_timeout_seconds=own_s)
        return
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise ValueError(f"--coordinator is {coordinator!r}; wanted HOST:PORT, as in 10.0.0.1:8476")
    if not 0 <= process < processes:
        raise ValueError(f"--process is {process}; with --processes {processes} wanted one from 0 to {processes - 1}")
    mesh.emulate(settings.devices, processes=processes)
    if processes == 1:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator, processes, process, heartbeat_timeout_seconds=own_s, cluster_detection_method="deactivate"
    )


def workers(environment: Mapping[str, str]) -> int:
    """How many hosts the TPU slices of this one have; 1 where there is no TPU, or JAX_PLATFORMS leaves it out.

    GKE says it in the environment. On a Cloud TPU VM the metadata server does; it is asked only where libtpu and a
    chip's device file are.
    """
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms.split(","):
        return 1
    slices = int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    if names := environment.get("TPU_WORKER_HOSTNAMES"):
        return slices * len(names.split(","))
    on_vm = importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
    if not on_vm or "TPU_SKIP_MDS_QUERY" in environment:
        return slices
    request = urllib.request.Request(METADATA, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=METADATA_S) as answer:
            return slices * len(answer.read().decode().split(","))
    except (urllib.error.URLError, TimeoutError):  # no Cloud TPU VM after all
        return slices
