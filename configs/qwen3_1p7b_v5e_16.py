"""The paper's setting (paper_1p7b.py) on v5e:4x4: 16 chips, 4 hosts of 4.

    qr-jax plan configs/qwen3_1p7b_v5e_16.py --topology v5e:4x4 --price 1.2    # memory, time and cost, without a TPU
    tpu_scripts/launch.sh NAME configs/qwen3_1p7b_v5e_16.py    # on a pod; by hand: qr-jax train, on every host, train.bucket=gs://...

`plan` compiles all four programs and says that they fit: at most 13.6 of 15.75 GiB a chip, of which the train step by
itself 3.14. Its estimate, under the assumptions that it prints: 19 s a step (rollout 15, learner 4.2), 1.7 hours for
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
    mesh=Mesh(fsdp=16),
    learner=replace(paper.learner, rows=16),
    rollout=replace(paper.rollout, slots=64, store=32),
)
