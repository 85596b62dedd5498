"""Four models learn to search for real multi-hop questions on one GPU of 24, 40 or 80 GB, fully or by adapters.

    qr-jax plan configs/gpu/cards.py:qwen3_1p7b_lora_24gb --gpu rtx4090      # does it fit?
    qr-jax train configs/gpu/cards.py:qwen3_1p7b_lora_24gb

A config is named MODEL_CARD or MODEL_lora_CARD; MODEL_CARD is missing where full training does not fit the card.
Questions, passages and traces are those of configs/smollm2_multihop.py. Settings that do not depend on memory are those
of configs/gemma3_1b.py. SmolLM2 learns at 1e-5, since 3e-6 taught it nothing on one-hop questions
(docs/measurements.md), the others at 1e-6. Adapters have rank 16 on all matrices and learn at ten times the rate of
whole weights (Schulman et al. 2025, "LoRA Without Regret").

XLA's compiler for GPUs compiled these configs, and `plan` planned them on a CPU. None was run: neither time nor
accuracy is known.
"""

from pathlib import Path

from qr_jax.config import load

BASE = Path(__file__).parents[1] / "gemma3_1b.py"
SMOLLM2, QWEN_0P6B, QWEN_1P7B = "smollm2", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"
GEMMA = "google/gemma-3-1b-it"
LORA = ("model.lora.rank=16", "learner.lr=1e-5", "sft.lr=1e-4")
SMALL = ("learner.lr=1e-5",)
SMALL_LORA = (*LORA, "learner.lr=1e-4")


def _card(model, *more, rows, slots):
    """Return the base's settings with so many rows of a micro-batch and slots of the sampler."""
    sizes = (f"learner.rows={rows}", f"rollout.slots={slots}", f"rollout.store={slots // 2}")
    return load(BASE, [f"model.name={model}", *sizes, *more])


smollm2_24gb = _card(SMOLLM2, *SMALL, rows=16, slots=96)
smollm2_lora_24gb = _card(SMOLLM2, *SMALL_LORA, rows=16, slots=96)
qwen3_0p6b_24gb = _card(QWEN_0P6B, rows=2, slots=16)
qwen3_0p6b_lora_24gb = _card(QWEN_0P6B, *LORA, rows=8, slots=32)
qwen3_1p7b_lora_24gb = _card(QWEN_1P7B, *LORA, rows=4, slots=24)
gemma3_1b_lora_24gb = _card(GEMMA, *LORA, rows=4, slots=128)

smollm2_40gb = _card(SMOLLM2, *SMALL, rows=32, slots=192)
smollm2_lora_40gb = _card(SMOLLM2, *SMALL_LORA, rows=32, slots=192)
qwen3_0p6b_40gb = _card(QWEN_0P6B, rows=8, slots=48)
qwen3_0p6b_lora_40gb = _card(QWEN_0P6B, *LORA, rows=16, slots=64)
qwen3_1p7b_lora_40gb = _card(QWEN_1P7B, *LORA, rows=8, slots=64)
gemma3_1b_40gb = _card(GEMMA, rows=4, slots=128)
gemma3_1b_lora_40gb = _card(GEMMA, *LORA, rows=8, slots=256)

smollm2_80gb = _card(SMOLLM2, *SMALL, rows=64, slots=256)
smollm2_lora_80gb = _card(SMOLLM2, *SMALL_LORA, rows=64, slots=256)
qwen3_0p6b_80gb = _card(QWEN_0P6B, rows=16, slots=128)
qwen3_0p6b_lora_80gb = _card(QWEN_0P6B, *LORA, rows=32, slots=128)
qwen3_1p7b_80gb = _card(QWEN_1P7B, rows=8, slots=64)
qwen3_1p7b_lora_80gb = _card(QWEN_1P7B, *LORA, rows=16, slots=128)
gemma3_1b_80gb = _card(GEMMA, rows=16, slots=256)
gemma3_1b_lora_80gb = _card(GEMMA, *LORA, rows=16, slots=256)
