"""Connect the processes of one run: by a TPU pod's environment, or by the command line."""

import contextlib
import glob
import importlib.util
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from qr_jax import config, errors
from qr_jax.errors import UserError
from qr_jax.parallel import mesh

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
METADATA_S = 5  # how long to wait for a TPU VM's metadata server
METADATA_PAUSES_S = (1, 2, 4, 8)  # before it is asked again
MEET_S = 1800.0  # how long to wait for the other processes: another host may still be installing, or starting again
PART_S = 60  # how much longer than the deadline a failing process waits: the others must read that it failed
MEET_SAY_S = 60.0  # how often a process says that it waits
TIMES_OURS = 4  # jax's deadline for a silent process is so many of ours: our watchdog, which says more, must act first


def begin(
    settings: config.Mesh,
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    environment: Mapping[str, str] = os.environ,
    meet_s: float = MEET_S,
) -> None:
    """Emulate the CPU's devices and, with several processes, start jax's multi-controller runtime.

    `coordinator` (HOST:PORT, of process 0), `processes` and `process` describe the processes; without the three a TPU
    pod's environment does; else this process is alone. Call it before anything runs in jax. If the others do not all
    come within `meet_s` the process ends with errors.LOST. ValueError when only some of the three are given or they
    contradict one another; OSError if a TPU VM cannot learn how many hosts there are, or process 0 has no address or
    cannot listen.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise UserError(f"{', '.join(missing)} missing; give all of {', '.join(given)}, or none of them")
    how: dict[str, Any] = {"heartbeat_timeout_seconds": max(100, int(TIMES_OURS * settings.heartbeat_s))}
    how["initialization_timeout"] = int(meet_s) + 120  # jax's own end of waiting is an abort without a word of ours
    how["shutdown_timeout_seconds"] = int(settings.heartbeat_s) + PART_S
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow a SIGTERM until a run takes it
    if coordinator is None or processes is None or process is None:
        mesh.emulate(settings.devices)
        if (count := workers(environment)) > 1:
            with waiting(f"one of {count} hosts", meet_s):
                jax.distributed.initialize(**how)
        return
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"--coordinator is {coordinator!r}; wanted HOST:PORT, as in 10.0.0.1:8476")
    if not 0 <= process < processes:
        raise UserError(f"--process is {process}; with --processes {processes} wanted 0 to {processes - 1}")
    mesh.emulate(settings.devices, processes=processes)
    if processes == 1:
        return
    try:
        socket.getaddrinfo(host.strip("[]"), port)
    except OSError as error:
        raise OSError(f"--coordinator is {coordinator!r}; this host knows no address of {host!r} ({error})") from error
    if process == 0:  # jax may end in a segmentation fault where it cannot listen
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise OSError(f"process 0 cannot listen at --coordinator {coordinator} ({error})") from error
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with waiting(f"process {process} of {processes}, coordinator {coordinator}", meet_s):
        jax.distributed.initialize(coordinator, processes, process, cluster_detection_method="deactivate", **how)


@contextlib.contextmanager
def waiting(who: str, meet_s: float) -> Iterator[None]:
    """In this context, print each minute that this process waits for the others; after `meet_s`, end it (LOST)."""
    met = threading.Event()

    def watch():
        start = time.monotonic()
        while not met.wait(min(MEET_SAY_S, max(start + meet_s - time.monotonic(), 0.0))):
            waited_s = time.monotonic() - start
            if waited_s >= meet_s:
                said = f"{who}: the other processes are not all there after {waited_s:.0f} s"
                todo = "is the command started on every host, and can they reach process 0? Start it again on all"
                print(f"{said}; {todo}", file=sys.stderr, flush=True)
                os._exit(errors.LOST)
            print(f"{who}: waiting for the others for {waited_s:.0f} s", file=sys.stderr, flush=True)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        met.set()


def workers(environment: Mapping[str, str]) -> int:
    """Return the number of hosts of this host's TPU slices; 1 if there is no TPU, or JAX_PLATFORMS excludes it.

    On GKE the environment tells it. On a Cloud TPU VM the metadata server does; it is asked only if libtpu and a chip's
    device file exist. OSError if that server does not answer: a host that took itself to be alone would write to the
    run of the others.
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
    return slices * len((metadata() or "alone").split(","))


def metadata(pauses_s: tuple[float, ...] = METADATA_PAUSES_S) -> str | None:
    """Return the metadata server's list of a slice's hosts; None if there is no such server, or it
    knows none. OSError if it does not answer.
    """
    request = urllib.request.Request(METADATA, headers={"Metadata-Flavor": "Google"})
    for pause_s in (*pauses_s, None):
        try:
            with urllib.request.urlopen(request, timeout=METADATA_S) as answer:
                return answer.read().decode()
        except OSError as error:  # of urllib too
            if isinstance(error, urllib.error.HTTPError):
                error.close()
                if error.code == 404:
                    return None
            why = error
        if pause_s is not None:
            time.sleep(pause_s)
    if isinstance(getattr(why, "reason", None), socket.gaierror):  # no Cloud TPU VM after all
        return None
    silent = f"this machine has TPU chips, and {METADATA} does not say how many hosts the slice has ({why})"
    raise OSError(f"{silent}; try again, or set TPU_SKIP_MDS_QUERY=1 where this is no Cloud TPU VM")
