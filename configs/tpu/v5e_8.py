"""Three models for one host of eight TPU chips, as Kaggle (v5e-8) and Cloud TPU (v5litepod-8, v6e-8) offer, and one
model for a single chip, as Colab offers (v5e-1, v6e-1). examples/tpu_notebook.ipynb runs them.

    qr-jax plan configs/tpu/v5e_8.py:qwen3_0p6b --topology v5e:2x4           # memory and time; needs no TPU
    qr-jax train configs/tpu/v5e_8.py:qwen3_0p6b --run FOLDER                # all weights are trained
    qr-jax train configs/tpu/v5e_8.py:qwen3_1p7b_lora --run FOLDER           # adapters of rank 16 (docs/lora.md)
    qr-jax train configs/tpu/v5e_8.py:gemma3_1b --run FOLDER                 # needs Gemma's terms and real questions
    qr-jax train configs/tpu/v5e_8.py:qwen3_0p6b_lora_1 --run FOLDER         # one chip

Qwen3 searches the synthetic world of configs/paper/qwen3_1p7b.py, which is built on first use; Gemma has the questions
of configs/gemma3_1b.py. If the session ends, the same command in the next one resumes the run. The configs are
compiled (docs/planning.md has the peaks), and none was run: neither time nor accuracy is known.
"""

from pathlib import Path

from qr_jax.config import load

CONFIGS = Path(__file__).parents[1]
# A session may end at any time: a checkpoint every ten steps, two kept.
EIGHT = ("mesh.fsdp=8", "learner.rows=8", "rollout.slots=64", "rollout.store=32", "train.checkpoint_every=10")
# Rates ten times those of whole weights (Schulman et al. 2025, "LoRA Without Regret").
LORA = ("model.lora.rank=16", "model.lora.alpha=32", "learner.lr=3e-5", "sft.lr=1e-4")
ONE = ("mesh.fsdp=1", "learner.rows=2", "rollout.slots=8", "rollout.store=8")

qwen3_0p6b = load(CONFIGS / "paper/qwen3_1p7b.py", [*EIGHT, "model.name=Qwen/Qwen3-0.6B"])
qwen3_1p7b_lora = load(CONFIGS / "paper/qwen3_1p7b.py", [*EIGHT, *LORA])
qwen3_0p6b_lora_1 = load(CONFIGS / "paper/qwen3_1p7b.py", [*EIGHT, *LORA, *ONE, "model.name=Qwen/Qwen3-0.6B"])
gemma3_1b = load(f"{CONFIGS / 'gemma3_1b.py'}:v5e_8", ["train.checkpoint_every=10"])
