"""The paper's setting (paper_1p7b.py) on v5e:8x8: 64 chips, 16 hosts of 4.

    qr-jax plan configs/qwen3_1p7b_v5e_64.py --topology v5e:8x8 --price 1.2    # memory, time and cost, without a TPU
    tpu_scripts/launch.sh NAME configs/qwen3_1p7b_v5e_64.py    # on a pod; by hand: qr-jax train, on every host, train.bucket=gs://...

`plan` compiles all four programs and says that they fit: at most 5.7 of 15.75 GiB a chip, of which the train step by
itself 2.24. Its estimate, under the assumptions that it prints: 6 s a step (rollout 5, learner 1.7), 0.6 hours for
330 steps. Compiled and not run: no TPU was at hand, so neither time nor accuracy is measured.
The learner is sharded over all chips; a host's chips share its rollouts by key/value heads.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from qr_jax.config import Mesh

paper = runpy.run_path(str(Path(__file__).with_name("paper_1p7b.py")))["config"]

config = replace(
    paper,
    mesh=Mesh(fsdp=64),
    learner=replace(paper.learner, rows=64),
    rollout=replace(paper.rollout, slots=16, store=16),
)
