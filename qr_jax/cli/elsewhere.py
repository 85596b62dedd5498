"""Settings of verl (also Search-R1's and SkyRL's, which have its names), TRL and Tunix, and their names here."""

from collections.abc import Mapping

# The name here, with its unit or its values where theirs have others (what is copied as it stands would be wrong), and
# their names: the last part of each, or the last two where one would say too little.
HERE: Mapping[str, str] = {
    "pool.samples": "rollout.n n_agent num_generations group_size n_samples_per_prompt",
    "pool.queries": "train_batch_size batch_size",
    "pool.queries: questions, not answers: theirs / pool.samples": "generation_batch_size",
    "pool.oversample: a factor of pool.queries, not a number of questions": "gen_batch_size",
    "pool.rounds: rounds=refill, with rule=bounded_dapo": "filter_groups.enable",
    "pool.channel: reward or outcome, where acc is outcome": "filter_groups.metric",
    "pool.rounds.max_rounds: at least 1, and never an error; 0 sets no limit there": "max_num_gen_batches",
    "rollout.turn_tokens: tokens of one turn, not of the whole answer":
        "max_completion_length max_response_length response_length max_generate_length max_tokens_to_generate",
    "rollout.context_tokens": "max_model_len vllm_max_model_length kv_cache_size",
    "rollout.context_tokens: tokens of a whole episode: prompt, passages and all turns":
        "max_prompt_length prompt_length max_start_length",
    "rollout.observation_tokens: tokens, not characters": "max_obs_length max_tool_response_length",
    "rollout.search_k": "topk",
    "rollout.slots: a number of sequences, not a share of the memory":
        "max_num_seqs gpu_memory_utilization vllm_gpu_memory_utilization",
    "rollout.overlong: mask or keep, not true or false": "mask_truncated_completions",
    "rollout.thinking: enable_thinking alone":
        "enable_thinking chat_template_kwargs apply_chat_template_kwargs",
    "env.max_turns": "max_turns max_tool_calling_iterations",
    "env.max_turns: turns that may search, and one more may answer: theirs less 1": "max_assistant_turns",
    "retriever": "tool_config_path",
    "retriever.url": "search_url",
    "learner.updates: a number of updates a batch; the size of its parts follows, about pool.queries / learner.updates":
        "ppo_mini_batch_size mini_batch_size",
    "learner.updates: updates a batch, each over a part of its own; not another pass over the same":
        "num_iterations ppo_epochs",
    "learner.updates: updates a batch: theirs / gradient_accumulation_steps": "steps_per_generation",
    "learner.rows: packed rows of one micro-batch, each of several sequences, on all devices together":
        "per_device_train_batch_size ppo_micro_batch_size_per_gpu log_prob_micro_batch_size_per_gpu "
        "ppo_micro_batch_size train_micro_batch_size log_prob_micro_batch_size",
    "learner.rows: packed rows of one micro-batch; how many of them an update takes follows":
        "gradient_accumulation_steps",
    "learner.row_tokens: tokens of one packed row; a micro-batch has learner.rows of them on all devices":
        "ppo_max_token_len_per_gpu",
    "learner.lr": "learning_rate optim.lr",
    "learner.schedule: constant, cosine or linear, all with learner.warmup_updates": "lr_scheduler_type",
    "learner.warmup_updates: a number of updates, no share of them": "warmup_steps warmup_ratio lr_warmup_steps_ratio",
    "learner.warmup_updates: optimizer updates; theirs are batches, each of learner.updates of them": "lr_warmup_steps",
    "learner.weight_decay": "weight_decay",
    "learner.clip_norm": "max_grad_norm grad_clip clip_grad",
    "learner.betas: both of them, as in 0.9,0.95": "optim.betas adam_beta1 adam_beta2",
    "learner.eps": "adam_epsilon",
    "learner.kl_weight: TRL multiplies the divergence by the ratio too, unless use_bias_correction_kl=False": "beta",
    "learner.kl_weight: a weight, in the loss; 0 is off": "kl_loss_coef kl_coef use_kl_loss use_kl_in_reward",
    "learner.kl: k1, k2 or k3, where theirs are kl, mse and low_var_kl": "kl_loss_type kl_penalty",
    "learner.entropy_weight": "entropy_coeff entropy_coef",
    "loss.low": "clip_ratio_low",
    "loss.low: the lower bound alone; set loss.high too": "epsilon clip_ratio",
    "loss.high": "clip_ratio_high",
    "loss.high: with loss=cispo theirs less 1, for there it is the bound itself": "epsilon_high",
    "loss.dual": "clip_ratio_c",
    "loss.dual: 3 unless it is set; none is off, as it is in TRL unless it is set": "delta",
    "learner.reduce": "loss_agg_mode",
    "learner.reduce: how tokens are averaged; cispo and sapo are a learner.loss besides": "loss_type",
    "learner.horizon_tokens": "loss_scale_factor",
    "learner.loss": "loss_algo policy_loss.loss_mode",
    "learner.loss: gspo for sequence": "importance_sampling_level",
    "learner.advantage": "adv_estimator advantage_estimator",
    "learner.advantage: grpo scales by its group's deviation, dr_grpo does not, reinforce_pp by the batch's":
        "scale_rewards norm_adv_by_std_in_grpo",
    "learner.importance: truncate, or icepop for a mask; learner.importance_by is token or sequence":
        "rollout_is vllm_importance_sampling_correction vllm_importance_sampling_mode",
    "learner.importance_high": "vllm_importance_sampling_cap vllm_importance_sampling_clip_max",
    "learner.importance_high: two bounds, as in 0.5_5, are learner.importance=icepop with importance_low too":
        "rollout_is_threshold",
    "learner.importance_low: 0 for none": "vllm_importance_sampling_clip_min",
    "train.steps": "total_training_steps",
    "train.steps: in batches, each of learner.updates optimizer updates": "max_steps",
    "train.steps: in steps of pool.queries questions, not epochs": "total_epochs num_train_epochs num_epochs",
    "train.checkpoint_every": "save_interval_steps save_freq",
    "train.checkpoint_every: in batches, each of learner.updates optimizer updates": "save_steps",
    "train.keep_checkpoints": "save_total_limit max_to_keep max_actor_ckpt_to_keep",
    "evaluation.every": "eval_every_n_steps test_freq",
    "evaluation.every: in batches, each of learner.updates optimizer updates": "eval_steps",
    "evaluation.every: a number of steps": "eval_strategy",
    "evaluation.samples": "val_kwargs.n num_generations_eval",
    "evaluation.temperature": "val_kwargs.temperature",
    "evaluation.top_p": "val_kwargs.top_p",
    "evaluation.top_k: 0 is off, not -1": "val_kwargs.top_k",
    "log.wandb: true or false": "report_to logger",
    "model.name": "model.path model_name_or_path model_id",
    "model.compute: bfloat16 or float32": "dtype torch_dtype bf16",
    "model.remat: full or none, not true or false": "gradient_checkpointing enable_gradient_checkpointing",
    "data.train": "train_files dataset_name train_dataset",
    "data.eval": "val_files eval_dataset",
    "data.train_limit": "train_data_num max_train_samples",
    "data.eval_limit": "val_data_num",
    "reward": "reward_funcs custom_reward_function.path reward_manager",
    "mesh.fsdp: devices of all hosts together": "fsdp_size n_gpus_per_node nnodes",
    "mesh.tensor: of the learner; mesh.rollout says how a rollout is divided":
        "tp tensor_model_parallel_size vllm_tensor_parallel_size",
}  # fmt: skip
SETTINGS: Mapping[str, str] = {theirs: ours for ours, names in HERE.items() for theirs in names.split()}
# The same where a model is only asked, which trains on no batch.
BATCHES = ("batch_size", "train_batch_size", "eval_batch_size", "per_device_eval_batch_size", "val_batch_size")
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
# What they set and nothing here does, and their names.
NOT_HERE: Mapping[str, str] = {
    "the run's folder is --run FOLDER here":
        "output_dir default_local_dir checkpoint_root_directory experiment_name project_name",
    "the same command goes on with a run by itself here; --restart begins anew":
        "resume_mode resume resume_from_checkpoint",
    "a run always evaluates before training here": "val_before_train",
    "`qr-jax eval RUN` evaluates and trains nothing here": "val_only",
    "only tokens that the model sampled are ever trained on here": "state_masking",
    "rows are always packed here": "use_remove_padding",
    "the engine that samples is our own here, and needs no setting":
        "use_vllm rollout.name rollout.mode enforce_eager free_cache_engine",
    "the optimizer is AdamW here; its settings are learner.lr, betas, eps and weight_decay": "optim",
    "nothing is set here: rollout.observation_tokens and rollout.context_tokens say where text is cut": "truncation",
    "no model gives the reward here: reward=NAME does, and `qr-jax settings reward` lists them": "reward_model.enable",
    "the order of queries follows the seed and pool.rule here": "shuffle",
    "every step is written to metrics.jsonl here": "logging_steps",
    "`qr-jax settings rollout.n`, say, tells what a setting of theirs is called here":
        "verl skyrl search-r1 trl tunix",
}  # fmt: skip
SENTENCES: Mapping[str, str] = {theirs: said for said, names in NOT_HERE.items() for theirs in names.split()}


def said_of(name: str) -> str | None:
    """Say, as the end of an error, what another system's setting is here; None for an unknown name."""
    parts = name.lstrip("+").split(".")  # Hydra's sign of a key that the config lacks
    for end in (".".join(parts[-2:]), parts[-1]):
        if end in SETTINGS:
            ours, colon, unlike = SETTINGS[end].partition(": ")
            return f"it is {ours} here{colon}{unlike}"
        if end in SENTENCES:
            return SENTENCES[end]
    return None
