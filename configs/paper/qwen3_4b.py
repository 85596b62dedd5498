"""The paper's larger model, Qwen3-4B: rows, pods and `served` are as in qwen3_1p7b.py; v5e_16 has half the slots.

    qr-jax plan configs/paper/qwen3_4b.py:v5e_16 --topology v5e:4x4 --price 1.2
    tpu_scripts/launch.sh NAME configs/paper/qwen3_4b.py:recycle_k4_x2_on_v5e_64

These configs are compiled and were not run.
"""

import runpy
from dataclasses import replace
from pathlib import Path

small = runpy.run_path(str(Path(__file__).with_name("qwen3_1p7b.py")))
config = replace(small["config"], model=replace(small["config"].model, name="Qwen/Qwen3-4B"))
served = replace(small["served"], model=config.model)
PODS = small["PODS"] | {"v5e_16": {"fsdp": 16, "rows": 16, "slots": 32, "store": 16}}  # a sequence takes 0.6 GB
globals().update(small["both"](config, served, PODS))
