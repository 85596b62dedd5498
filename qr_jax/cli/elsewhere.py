"""Settings of verl (also Search-R1's and SkyRL's, which have its names), TRL and Tunix, and their names here."""

from collections.abc import Mapping

# By the last part of the name there, or its last two where one would say too little.
SETTINGS: Mapping[str, str] = {
    # how much is drawn and sampled
    "rollout.n": "pool.samples", "n_agent": "pool.samples", "num_generations": "pool.samples",
    "group_size": "pool.samples", "n_samples_per_prompt": "pool.samples",
    "train_batch_size": "pool.queries", "batch_size": "pool.queries", "generation_batch_size": "pool.queries",
    "gen_batch_size": "pool.oversample", "filter_groups.enable": "pool.rounds",
    "filter_groups.metric": "pool.channel", "max_num_gen_batches": "pool.rounds.max_rounds",
    # rollouts
    "max_completion_length": "rollout.turn_tokens", "max_response_length": "rollout.turn_tokens",
    "response_length": "rollout.turn_tokens", "max_generate_length": "rollout.turn_tokens",
    "max_tokens_to_generate": "rollout.turn_tokens", "max_prompt_length": "rollout.context_tokens",
    "prompt_length": "rollout.context_tokens", "max_start_length": "rollout.context_tokens",
    "max_model_len": "rollout.context_tokens", "vllm_max_model_length": "rollout.context_tokens",
    "kv_cache_size": "rollout.context_tokens", "max_obs_length": "rollout.observation_tokens",
    "max_tool_response_length": "rollout.observation_tokens", "topk": "rollout.search_k",
    "max_num_seqs": "rollout.slots", "gpu_memory_utilization": "rollout.slots",
    "vllm_gpu_memory_utilization": "rollout.slots", "mask_truncated_completions": "rollout.overlong",
    "enable_thinking": "rollout.thinking", "chat_template_kwargs": "rollout.thinking",
    "apply_chat_template_kwargs": "rollout.thinking",
    "max_turns": "env.max_turns", "max_assistant_turns": "env.max_turns",
    "max_tool_calling_iterations": "env.max_turns",
    "tool_config_path": "retriever", "tools": "retriever", "search_url": "retriever.url",
    # the learner
    "ppo_mini_batch_size": "learner.updates", "mini_batch_size": "learner.updates", "num_iterations": "learner.updates",
    "ppo_epochs": "learner.updates", "steps_per_generation": "learner.updates",
    "per_device_train_batch_size": "learner.rows", "ppo_micro_batch_size_per_gpu": "learner.rows",
    "ppo_micro_batch_size": "learner.rows", "train_micro_batch_size": "learner.rows",
    "log_prob_micro_batch_size_per_gpu": "learner.rows", "log_prob_micro_batch_size": "learner.rows",
    "gradient_accumulation_steps": "learner.rows", "ppo_max_token_len_per_gpu": "learner.row_tokens",
    "learning_rate": "learner.lr", "optim.lr": "learner.lr", "lr_scheduler_type": "learner.schedule",
    "warmup_steps": "learner.warmup_updates", "lr_warmup_steps": "learner.warmup_updates",
    "warmup_ratio": "learner.warmup_updates", "lr_warmup_steps_ratio": "learner.warmup_updates",
    "weight_decay": "learner.weight_decay", "max_grad_norm": "learner.clip_norm", "grad_clip": "learner.clip_norm",
    "clip_grad": "learner.clip_norm", "optim.betas": "learner.betas",
    "adam_beta1": "learner.betas", "adam_beta2": "learner.betas", "adam_epsilon": "learner.eps",
    "beta": "learner.kl_weight", "kl_coef": "learner.kl_weight", "kl_loss_coef": "learner.kl_weight",
    "use_kl_loss": "learner.kl_weight", "use_kl_in_reward": "learner.kl_weight",
    "kl_loss_type": "learner.kl", "kl_penalty": "learner.kl", "entropy_coeff": "learner.entropy_weight",
    "entropy_coef": "learner.entropy_weight",
    "epsilon": "loss.low", "clip_ratio": "loss.low", "clip_ratio_low": "loss.low", "clip_ratio_high": "loss.high",
    "epsilon_high": "loss.high", "delta": "loss.dual", "clip_ratio_c": "loss.dual",
    "loss_agg_mode": "learner.reduce", "loss_type": "learner.reduce", "loss_scale_factor": "learner.horizon_tokens",
    "loss_algo": "learner.loss", "policy_loss.loss_mode": "learner.loss",
    "importance_sampling_level": "learner.loss", "adv_estimator": "learner.advantage",
    "advantage_estimator": "learner.advantage", "scale_rewards": "learner.advantage",
    "norm_adv_by_std_in_grpo": "learner.advantage", "rollout_is": "learner.importance",
    "rollout_is_threshold": "learner.importance_high",
    "vllm_importance_sampling_correction": "learner.importance",
    "vllm_importance_sampling_mode": "learner.importance",
    "vllm_importance_sampling_cap": "learner.importance_high",
    "vllm_importance_sampling_clip_max": "learner.importance_high",
    "vllm_importance_sampling_clip_min": "learner.importance_low",
    # how long, and what is kept and said
    "max_steps": "train.steps", "total_epochs": "train.steps", "num_train_epochs": "train.steps",
    "num_epochs": "train.steps", "total_training_steps": "train.steps",
    "save_steps": "train.checkpoint_every", "save_interval_steps": "train.checkpoint_every",
    "save_freq": "train.checkpoint_every", "save_total_limit": "train.keep_checkpoints",
    "max_to_keep": "train.keep_checkpoints", "max_actor_ckpt_to_keep": "train.keep_checkpoints",
    "eval_steps": "evaluation.every", "eval_every_n_steps": "evaluation.every", "eval_strategy": "evaluation.every",
    "test_freq": "evaluation.every", "val_kwargs.n": "evaluation.samples",
    "val_kwargs.temperature": "evaluation.temperature", "val_kwargs.top_p": "evaluation.top_p",
    "val_kwargs.top_k": "evaluation.top_k", "num_generations_eval": "evaluation.samples",
    "report_to": "log.wandb", "logger": "log.wandb",
    # the model, the questions and the devices
    "model.path": "model.name", "model_name_or_path": "model.name", "model_id": "model.name",
    "dtype": "model.compute", "bf16": "model.compute", "torch_dtype": "model.compute",
    "gradient_checkpointing": "model.remat", "enable_gradient_checkpointing": "model.remat",
    "train_files": "data.train", "dataset_name": "data.train", "train_dataset": "data.train",
    "val_files": "data.eval", "eval_dataset": "data.eval", "train_data_num": "data.train_limit",
    "max_train_samples": "data.train_limit", "val_data_num": "data.eval_limit",
    "reward_funcs": "reward", "custom_reward_function.path": "reward", "reward_manager": "reward",
    "fsdp_size": "mesh.fsdp", "n_gpus_per_node": "mesh.fsdp", "nnodes": "mesh.fsdp",
    "tensor_model_parallel_size": "mesh.tensor", "vllm_tensor_parallel_size": "mesh.tensor", "tp": "mesh.tensor",
}  # fmt: skip
# The same where a model is only asked, which trains on no batch.
BATCHES = ("batch_size", "train_batch_size", "eval_batch_size", "per_device_eval_batch_size", "val_batch_size")
OTHER_UPDATES = "updates a batch, each over a part of its own; not another pass over the same"
BATCHES_TAKEN = "in batches, each of learner.updates optimizer updates"
DEVICES = "devices of all hosts together"
ESTIMATES = "k1, k2 or k3, where theirs are kl, mse and low_var_kl"
MINI_BATCH = "a number of updates a batch; the size of its parts follows, about pool.queries / learner.updates"
ONE_BOUND = "the lower bound alone; set loss.high too"
EPOCHS = "in steps of pool.queries questions, not epochs"
PACKED = "packed rows of one micro-batch, each of several sequences"
REMAT = "full or none, not true or false"
ROWS = "packed rows of one micro-batch on all devices together, not of one device"
SCALED = "grpo scales by its group's deviation, dr_grpo does not; none scales by the batch's"
SHARDS = "of the learner; mesh.rollout says how a rollout is divided"
SHARE = "a number of updates, not a share of them"
THINKING = "its enable_thinking alone"
SLOTS = "a number of sequences, not a share of the memory"
TURN = "tokens of one turn, not of the whole answer"
WHOLE = "tokens of a whole episode: prompt, passages and all turns"
# In which unit, or which values, ours are where theirs have others: what is copied as it stands would be wrong.
UNLIKE: Mapping[str, str] = {
    "generation_batch_size": "questions, not answers: theirs / pool.samples",
    "gen_batch_size": "a factor of pool.queries, not a number of questions",
    "filter_groups.enable": "rounds=refill, with rule=bounded_dapo",
    "filter_groups.metric": "reward or outcome, where acc is outcome",
    "max_num_gen_batches": "at least 1, and never an error; 0 sets no limit there",
    "max_completion_length": TURN, "max_response_length": TURN, "response_length": TURN, "max_generate_length": TURN,
    "max_tokens_to_generate": TURN, "max_prompt_length": WHOLE, "prompt_length": WHOLE, "max_start_length": WHOLE,
    "gpu_memory_utilization": SLOTS, "vllm_gpu_memory_utilization": SLOTS,
    "gradient_checkpointing": REMAT, "enable_gradient_checkpointing": REMAT,
    "n_gpus_per_node": DEVICES, "nnodes": DEVICES,
    "tensor_model_parallel_size": SHARDS, "vllm_tensor_parallel_size": SHARDS,
    "mask_truncated_completions": "mask or keep, not true or false",
    "max_tool_response_length": "tokens, not characters",
    "chat_template_kwargs": THINKING, "apply_chat_template_kwargs": THINKING,
    "max_assistant_turns": "turns that may search, and one more may answer: theirs less 1",
    "ppo_mini_batch_size": MINI_BATCH, "mini_batch_size": MINI_BATCH,
    "ppo_epochs": OTHER_UPDATES, "num_iterations": OTHER_UPDATES,
    "steps_per_generation": "updates a batch: theirs / gradient_accumulation_steps",
    "per_device_train_batch_size": ROWS, "ppo_micro_batch_size_per_gpu": ROWS,
    "log_prob_micro_batch_size_per_gpu": ROWS, "ppo_micro_batch_size": PACKED, "log_prob_micro_batch_size": PACKED,
    "train_micro_batch_size": PACKED,
    "ppo_max_token_len_per_gpu": "tokens of one packed row; a micro-batch has learner.rows of them on all devices",
    "gradient_accumulation_steps": "packed rows of one micro-batch; how many of them an update takes follows",
    "lr_scheduler_type": "constant, cosine or linear, all with learner.warmup_updates",
    "warmup_steps": "a number of updates; a number below 1 is a share of them there",
    "lr_warmup_steps": "optimizer updates; theirs are batches, each of learner.updates of them",
    "warmup_ratio": SHARE, "lr_warmup_steps_ratio": SHARE,
    "adam_beta1": "both of them, as in 0.9,0.95", "adam_beta2": "both of them, as in 0.9,0.95",
    "beta": "TRL multiplies the divergence by the ratio too, unless use_bias_correction_kl=False",
    "kl_coef": "in the loss, not in the reward", "kl_loss_type": ESTIMATES, "kl_penalty": ESTIMATES,
    "use_kl_loss": "a weight; 0 is off", "use_kl_in_reward": "a weight, in the loss; 0 is off",
    "epsilon": ONE_BOUND, "clip_ratio": ONE_BOUND,
    "epsilon_high": "with loss=cispo theirs less 1, for there it is the bound itself",
    "delta": "3 unless it is set; none is off, as it is in TRL unless it is set",
    "loss_type": "how tokens are averaged; cispo and sapo are a learner.loss besides",
    "importance_sampling_level": "gspo for sequence",
    "rollout_is": "truncate, with learner.importance_by=token or sequence",
    "rollout_is_threshold": "two bounds, as in 0.5_5, are learner.importance=icepop with importance_low too",
    "vllm_importance_sampling_correction": "truncate or icepop, not true or false",
    "vllm_importance_sampling_mode": "truncate, or icepop for a mask; learner.importance_by is token or sequence",
    "vllm_importance_sampling_clip_min": "0 for none",
    "max_steps": BATCHES_TAKEN, "save_steps": BATCHES_TAKEN, "eval_steps": BATCHES_TAKEN,
    "total_epochs": EPOCHS, "num_train_epochs": EPOCHS, "num_epochs": EPOCHS,
    "scale_rewards": SCALED, "norm_adv_by_std_in_grpo": SCALED,
    "eval_strategy": "a number of steps", "val_kwargs.top_k": "0 is off, not -1",
    "bf16": "bfloat16 or float32, not true or false",
    "report_to": "true or false", "logger": "true or false",
}  # fmt: skip
TOKENS, EPISODES, HORIZON = "token_mean", "sequence_mean", "fixed_length, over learner.horizon_tokens"
# By the setting here: what a value of theirs is called.
VALUES: Mapping[str, Mapping[str, str]] = {
    "learner.reduce": {
        "token-mean": TOKENS, "dapo": TOKENS, "bnpo": TOKENS, "grpo": EPISODES, "seq-mean-token-mean": EPISODES,
        "dr_grpo": HORIZON, "seq-mean-token-sum-norm": HORIZON, "cispo": TOKENS, "sapo": EPISODES,
        "prompt_mean": "group_mean", "seq-mean-token-sum": "fixed_length, with learner.horizon_tokens=1",
    },
    "learner.schedule": {"constant_with_warmup": "constant, with learner.warmup_updates"},
    "learner.kl": {"kl": "k1", "mse": "k2", "low_var_kl": "k3"},
    "learner.importance": {
        "token": "truncate, with learner.importance_by=token", "token_truncate": "truncate",
        "sequence": "truncate, with learner.importance_by=sequence", "token_mask": "icepop",
        "sequence_truncate": "truncate, with learner.importance_by=sequence",
        "sequence_mask": "icepop, with learner.importance_by=sequence",
    },
}  # fmt: skip
DAPO = "DAPO is rule=bounded_dapo with rounds=refill here"
# By the kind of plug-in: methods that several of ours make together.
METHODS: Mapping[str, Mapping[str, str]] = {
    "rule": {"dapo": DAPO},
    "rounds": {"dapo": DAPO},
    "advantage": {
        "gae": "there is no critic here: grpo compares an answer with its group",
        "reinforce_plus_plus": "it is reinforce_pp here",
        "reinforce_plus_plus_baseline": "it is reinforce_pp with advantage.baseline=group here",
    },
    "loss": {"vanilla": "it is clip here"},
}
OWN_ENGINE = "the engine that samples is our own here, and needs no setting"
SYSTEM = "type the name of one of its settings, as in `qr-jax settings rollout.n`, and what it is here is said"
# What they set and nothing here does.
SENTENCES: Mapping[str, str] = {
    "output_dir": "the run's folder is --run FOLDER here",
    "default_local_dir": "the run's folder is --run FOLDER here",
    "checkpoint_root_directory": "the run's folder is --run FOLDER here",
    "experiment_name": "the run's folder is --run FOLDER here",
    "project_name": "the run's folder is --run FOLDER here",
    "resume_mode": "the same command goes on with a run by itself here; --restart begins anew",
    "resume": "the same command goes on with a run by itself here; --restart begins anew",
    "resume_from_checkpoint": "the same command goes on with a run by itself here; --restart begins anew",
    "val_before_train": "a run always evaluates before training here",
    "val_only": "`qr-jax eval RUN` evaluates and trains nothing here",
    "state_masking": "only tokens that the model sampled are ever trained on here",
    "use_remove_padding": "rows are always packed here",
    "use_vllm": OWN_ENGINE,
    "rollout.name": OWN_ENGINE,
    "rollout.mode": OWN_ENGINE,
    "enforce_eager": OWN_ENGINE,
    "free_cache_engine": OWN_ENGINE,
    "optim": "the optimizer is AdamW here; its settings are learner.lr, betas, eps and weight_decay",
    "truncation": "nothing is set here: rollout.observation_tokens and rollout.context_tokens say where text is cut",
    "reward_model.enable": "no model gives the reward here: reward=NAME does, and `qr-jax settings reward` lists them",
    "shuffle": "the order of queries follows the seed and pool.rule here",
    "logging_steps": "every step is written to metrics.jsonl here",
    **dict.fromkeys(("verl", "skyrl", "search-r1", "trl", "tunix"), SYSTEM),
}


def said_of(name: str) -> str | None:
    """Say, as the end of an error, what another system's setting is here; None for an unknown name."""
    parts = name.lstrip("+").split(".")  # Hydra's sign of a key that the config lacks
    for end in (".".join(parts[-2:]), parts[-1]):
        if end in SETTINGS:
            return f"it is {SETTINGS[end]} here" + (f": {UNLIKE[end]}" if end in UNLIKE else "")
        if end in SENTENCES:
            return SENTENCES[end]
    return None
