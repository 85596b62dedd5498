"""Small faults, planted one at a time in a copy of the package: the test that is named with each must fail.

    make mutations                                      # all of them
    python -m tests.mutations --only rollout            # those whose line has this word

A fault is a text that stands once in a file, and what takes its place. At first every named test must pass without one.
The tests run in processes forked from this one, which has imported jax and nothing of the package. The checkout is
never edited. When code changes, change its row here; tests/test_repository.py says which rows no longer fit.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("qr_jax", "tests", "configs", "benchmarks", "pyproject.toml", "tpu_scripts")
LIMIT_S = 300.0  # of one test; a fault that makes it hang is noticed, too
HANGS = -1
DIED, LIVES, NOT_PLANTED, NO_TEST = "died", "LIVES", "not planted", "NO TEST RAN"


class Mutation(NamedTuple):
    """A fault: `found` stands once in `file` and becomes `planted`; the test `killed_by`, a pytest node id, fails."""

    file: str
    found: str
    planted: str
    killed_by: str

    def line(self, text: str) -> int:
        return text[: text.index(self.found)].count("\n") + 1


MUTATIONS = (
    Mutation(
        "qr_jax/records.py",
        "return int(self.turn_L.max(initial=-1)) + 1",
        "return int(self.turn_L.max(initial=-1))",
        "tests/test_grading.py::test_ragged_turn_rewards_are_padded_and_masked",
    ),
    Mutation(
        "qr_jax/records.py",
        "valid_QG = valid_QG & np.isfinite(reward_QG)",
        "valid_QG = valid_QG & ~np.isnan(reward_QG)",
        "tests/test_grading.py::test_a_score_that_is_no_finite_number_is_a_fault_and_never_a_zero",
    ),
    Mutation(
        "qr_jax/records.py",
        "np.asarray(turn_valid_QGT, bool) & valid_QG[..., None]",
        "np.asarray(turn_valid_QGT, bool)",
        "tests/test_grading.py::test_ragged_turn_rewards_are_padded_and_masked",
    ),
    Mutation(
        "qr_jax/pool/pool.py",
        "grades.valid_QG.sum(axis=1) < 2",
        "grades.valid_QG.sum(axis=1) < 1",
        "tests/test_pool.py::test_a_faulty_group_leaves_its_query_as_it_was",
    ),
    Mutation(
        "qr_jax/pool/pool.py",
        "highest_Q > lowest_Q,",
        "highest_Q >= lowest_Q,",
        "tests/test_pool.py::test_verdicts_by_hand",
    ),
    Mutation(
        "qr_jax/learner/variance.py",
        "return high_Q > low_Q",
        "return high_Q != low_Q",
        "tests/test_variance.py::test_variance_mask_by_hand",
    ),
    Mutation(
        "qr_jax/pool/pool.py",
        "pool.weight_P if len(excluded) == 0 else _with(pool.weight_P, excluded, 0.0)",
        "pool.weight_P",
        "tests/test_pool.py::test_a_draw_is_distinct_eligible_and_short_when_few_are_left",
    ),
    Mutation(
        "qr_jax/pool/pool.py",
        "/ pool.size >= below",
        "/ pool.size > below",
        "tests/test_pool.py::test_refresh_resets_under_the_bound_and_not_at_it",
    ),
    Mutation(
        "qr_jax/pool/pool.py",
        "accepted & (dead_before > 0)",
        "accepted",
        "tests/test_pool.py::test_a_query_flips_when_it_is_accepted_after_a_dead_group",
    ),
    Mutation(
        "qr_jax/pool/pool.py",
        'graded_Q = outcome.verdict_Q != "fault"',
        "graded_Q = np.ones(len(outcome.verdict_Q), bool)",
        "tests/test_pool.py::test_a_faulty_group_leaves_its_query_as_it_was",
    ),
    Mutation(
        "qr_jax/pool/pool.py",
        'len(encoded).to_bytes(8, "little") + encoded',
        "encoded",
        "tests/test_pool.py::test_a_query_list_hash_depends_on_order_and_on_where_ids_end",
    ),
    Mutation(
        "qr_jax/step/rollout_and_grade.py",
        "exclude=[group.index for group in groups],",
        "exclude=(),",
        "tests/test_drawing.py::test_a_round_draws_new_queries_and_adds_samples_to_those_it_asks_for",
    ),
    Mutation(
        "qr_jax/step/rollout_and_grade.py",
        "number >= runtime.drawing.max_rounds",
        "number > runtime.drawing.max_rounds",
        "tests/test_drawing.py::test_more_rounds_than_the_file_declares_are_refused",
    ),
    Mutation(
        "qr_jax/step/grading.py",
        "lost_G = valid_G & ~graded.valid_QG[0]",
        "lost_G = ~graded.valid_QG[0]",
        "tests/test_grading.py::test_a_fault_of_the_rollout_keeps_its_own_reason",
    ),
    Mutation(
        "qr_jax/step/grading.py",
        "valid_G = np.array([episode.valid for episode in episodes], bool)",
        "valid_G = np.ones(len(episodes), bool)",
        "tests/test_grading.py::test_a_fault_of_the_rollout_keeps_its_own_reason",
    ),
    Mutation(
        "qr_jax/step/grading.py",
        "valid_tokens=sum(valid),",
        "valid_tokens=sum(sampled),",
        "tests/test_grading.py::test_a_score_that_is_no_finite_number_is_a_fault_and_never_a_zero",
    ),
    Mutation(
        "qr_jax/step/grading.py",
        "uniforms(len(rewards), SHUFFLE, seed, step)",
        "uniforms(len(rewards), SHUFFLE, seed)",
        "tests/test_train.py::test_shuffled_rewards_keep_their_values_and_stay_among_the_valid",
    ),
    Mutation(
        "qr_jax/step/guards.py",
        "probed[-2:].max() <",
        "probed[-1] <",
        "tests/test_guards.py::test_one_probe_under_the_best_is_no_alarm_and_steps_without_a_probe_raise_none",
    ),
    Mutation(
        "qr_jax/step/guards.py",
        "reward >= np.median(reward_before)",
        "reward > np.median(reward_before)",
        "tests/test_guards.py::test_an_alarm_is_raised_past_its_limit_and_not_before",
    ),
    Mutation(
        "qr_jax/step/rollout_and_grade.py",
        "failed * 2 > sent",
        "failed * 2 >= sent",
        "tests/test_outage.py::test_more_than_half_of_the_searches_or_of_the_groups_must_fail",
    ),
    Mutation(
        "qr_jax/step/runtime.py",
        "for group in groups if group.index not in kept_indices]",
        "for group in groups]",
        "tests/test_grading.py::test_what_is_drawn_and_not_kept_is_left_out_of_the_next_batch",
    ),
    Mutation(
        "qr_jax/step/runtime.py",
        "return seed + ROLLBACK_SEEDS * self.rollbacks",
        "return seed",
        "tests/test_train.py::test_updates_that_are_not_finite_roll_back_with_other_keys_and_end_with_a_reason",
    ),
    Mutation(
        "qr_jax/step/rollout_and_grade.py",
        "[*(grading.before_grading(before[index]) if index in before else ()), *rolled[index]]",
        "[*rolled[index]]",
        "tests/test_forks.py::test_adaptive_rounds_turn_rewards_entropies_and_golds_train_and_are_told",
    ),
    Mutation(
        "qr_jax/step/rollout_and_grade.py",
        "first = {group.index: group.spent.episodes for group in groups}",
        "first = dict.fromkeys(owner, 0)",
        "tests/test_forks.py::test_adaptive_rounds_turn_rewards_entropies_and_golds_train_and_are_told",
    ),
    Mutation(
        "qr_jax/step/runtime.py",
        'in ("length", "context")',
        'in ("context",)',
        "tests/test_grading.py::test_a_batch_counts_what_was_left_out_and_does_not_train_on_what_was_cut",
    ),
    Mutation(
        "qr_jax/step/runtime.py",
        "drawn_tokens=left_out[0],",
        "drawn_tokens=0,",
        "tests/test_grading.py::test_a_batch_counts_what_was_left_out_and_does_not_train_on_what_was_cut",
    ),
    Mutation(
        "qr_jax/step/log.py",
        "float(reward) if ok else None for",
        "float(reward) for",
        "tests/test_forks.py::test_a_reward_without_a_number_is_a_fault_by_name_and_not_a_zero",
    ),
    Mutation(
        "qr_jax/step/log.py",
        "grades.reward_QG[grades.valid_QG].mean()",
        "grades.reward_QG.mean()",
        "tests/test_forks.py::test_a_reward_without_a_number_is_a_fault_by_name_and_not_a_zero",
    ),
    Mutation(
        "qr_jax/step/log.py",
        "q * batch.grades.valid_QG.shape[1] + g",
        "q * batch.grades.valid_QG.shape[0] + g",
        "tests/test_telling.py::test_episodes_are_told_with_the_advantage_they_were_trained_with",
    ),
    Mutation(
        "qr_jax/interfaces.py",
        "if samples[index] + count > most:",
        "if samples[index] + count >= most:",
        "tests/test_drawing.py::test_a_round_draws_new_queries_and_adds_samples_to_those_it_asks_for",
    ),
    Mutation(
        "qr_jax/interfaces.py",
        "or count < 1:",
        "or count < 0:",
        "tests/test_contracts.py::test_a_wrong_return_is_refused_by_name_with_what_was_found_and_wanted[rounds]",
    ),
    Mutation(
        "qr_jax/interfaces.py",
        "(np.isfinite(weight_P) & (weight_P >= 0))",
        "np.isfinite(weight_P)",
        "tests/test_contracts.py::test_a_wrong_return_is_refused_by_name_with_what_was_found_and_wanted[rule]",
    ),
    Mutation(
        "qr_jax/interfaces.py",
        "(0, 1)).all():",
        "(0, 1)).any():",
        "tests/test_contracts.py::test_a_wrong_return_is_refused_by_name_with_what_was_found_and_wanted[reward]",
    ),
    Mutation(
        "qr_jax/plugins.py",
        "known[constant] is int and declared[constant] < 1",
        "known[constant] is int and declared[constant] < 0",
        "tests/test_contracts.py::test_constants_are_checked",
    ),
    Mutation(
        "qr_jax/config.py",
        'at_least(2, ", to compare")',
        'at_least(1, ", to compare")',
        "tests/test_config.py::test_a_wrong_setting_is_a_problem",
    ),
    Mutation(
        "qr_jax/settings/checks.py",
        "rollout.context_tokens > row",
        "rollout.context_tokens >= row",
        "tests/test_config.py::test_the_default_config_has_no_problems",
    ),
    Mutation(
        "qr_jax/settings/checks.py",
        "rollout.turn_tokens >= rollout.context_tokens",
        "rollout.turn_tokens > rollout.context_tokens",
        "tests/test_config.py::test_a_wrong_setting_is_a_problem",
    ),
    Mutation(
        "qr_jax/settings/checks.py",
        "most < pool.samples",
        "most <= pool.samples",
        "tests/test_config.py::test_what_a_plug_in_s_file_declares_must_go_with_the_config",
    ),
    Mutation(
        "qr_jax/learner/credit.py",
        "filled_ME[..., None] & batch.mask_MEL,",
        "filled_ME[..., None],",
        "tests/test_credit.py::test_slots_come_back_as_the_episodes_that_were_packed",
    ),
    Mutation(
        "qr_jax/learner/credit.py",
        "batch.beside_tokens + (batch.drawn_tokens if drawn else 0)",
        "batch.drawn_tokens if drawn else 0",
        "tests/test_fill.py::test_weights_give_the_gradient_of_the_batch_with_the_copies_in_it[token_mean]",
    ),
    Mutation(
        "qr_jax/learner/importance.py",
        "jnp.where(mask_NL, logp_NL - other_logp_NL, 0.0)",
        "logp_NL - other_logp_NL",
        "tests/test_losses.py::test_a_non_finite_log_probability_off_the_mask_reaches_neither_loss_nor_gradient",
    ),
    Mutation(
        "qr_jax/learner/importance.py",
        "return jax.lax.stop_gradient(jnp.minimum(",
        "return jnp.asarray(jnp.minimum(",
        "tests/test_losses.py::test_importance_weights_carry_no_gradient",
    ),
    Mutation(
        "qr_jax/learner/importance.py",
        "(weight_NL >= low) & (weight_NL <= high)",
        "weight_NL <= high",
        "tests/test_losses.py::test_importance_weights_by_hand",
    ),
    Mutation(
        "qr_jax/learner/kl.py",
        "jnp.clip(ref_logp_NL - logp_NL,",
        "jnp.clip(logp_NL - ref_logp_NL,",
        "tests/test_losses.py::test_kl_estimates_by_hand",
    ),
    Mutation(
        "qr_jax/learner/kl.py",
        "jnp.square(logp_NL - ref_logp_NL) / 2",
        "jnp.square(logp_NL - ref_logp_NL)",
        "tests/test_losses.py::test_kl_estimates_by_hand",
    ),
    Mutation(
        "qr_jax/learner/learner.py",
        "(updates + 1) / settings.warmup_updates",
        "updates / settings.warmup_updates",
        "tests/test_learner.py::test_the_learning_rate_warms_up_with_updates_and_falls_with_the_run",
    ),
    Mutation(
        "qr_jax/learner/learner.py",
        '.endswith(("norm", "bias"))',
        '.endswith("bias")',
        "tests/test_learner.py::test_weights_decay_and_norms_and_biases_do_not",
    ),
    Mutation(
        "qr_jax/learner/learner.py",
        "            between = _nothing\n",
        "",
        "tests/test_learner.py::test_several_updates_by_parts_are_those_of_whole_steps_and_only_the_first_may_be_ended",
    ),
    Mutation(
        "qr_jax/logging/goodput.py",
        "wall_s - self._wall_s - step_s - evaluation_s",
        "wall_s - self._wall_s - step_s",
        "tests/test_goodput.py::test_what_comes_before_and_between_steps_by_hand",
    ),
    Mutation(
        "qr_jax/parallel/mesh.py",
        "for device in own[-count:]}",
        "for device in own[:count]}",
        "tests/test_pod_overlap.py::test_the_outermost_chips_of_every_host_roll_out",
    ),
    Mutation(
        "qr_jax/run/runs.py",
        "        if self.stopping and hosts.count() == 1:\n            raise Interrupted\n",
        "        return\n",
        "tests/test_train.py::test_a_sigterm_while_the_learner_compiles_ends_it_between_two_programs",
    ),
    Mutation(
        "qr_jax/step/profile.py",
        "first <= step < end",
        "first <= step <= end",
        "tests/test_train.py::test_each_process_writes_a_trace_of_its_own",
    ),
    Mutation(
        "qr_jax/learner/pack.py",
        "r * row_tokens + column + columns[:-1]",
        "r * row_tokens + column + columns[1:]",
        "tests/test_pack.py::test_pack_by_hand",
    ),
    Mutation(
        "qr_jax/learner/pack.py",
        "else max(alike - 1, 0)",
        "else alike",
        "tests/test_pack.py::test_a_tree_by_hand",
    ),
    Mutation(
        "qr_jax/models/attention.py",
        "& (query[None, :, None] <= last_BNj[j][:, None, :])",
        "& (0 <= last_BNj[j][:, None, :])",
        "tests/test_attention.py::test_branches_see_their_trunk_and_not_each_other",
    ),
    Mutation(  # a window of columns, which in a tree are not positions
        "qr_jax/models/attention.py",
        "seen &= position_BNj[i][:, :, None] - position_BNj[j][:, None, :] < window",
        "seen &= (query[:, None] - key[None] < window)[None]",
        "tests/test_attention.py::test_branches_see_their_trunk_and_not_each_other",
    ),
    Mutation(  # a chunk's later tokens would see further back than its first
        "qr_jax/models/cached_attention.py",
        "used_S[:, None] + at - at_B[None] < window",
        "used_S[:, None] - at_B[None] < window",
        "tests/test_gemma.py::test_log_probabilities_are_those_of_a_forward_pass_without_a_cache",
    ),
    Mutation(
        "qr_jax/models/incremental.py",
        "turns_of[slides], given)",
        "turns_of[0], given)",
        "tests/test_gemma.py::test_log_probabilities_are_those_of_a_forward_pass_without_a_cache",
    ),
    Mutation(
        "qr_jax/models/lora.py",
        "scale = settings.alpha / settings.rank",
        "scale = settings.alpha * settings.rank",
        "tests/test_lora.py::test_of_full_rank_the_first_update_is_full_trainings",
    ),
    Mutation(
        "qr_jax/models/lora.py",
        "math.prod(inputs) ** -0.5",
        "math.prod(inputs) ** -1.0",
        "tests/test_lora.py::test_new_adapters_change_nothing_and_a_is_as_wide_as_pefts",
    ),
    Mutation(
        "qr_jax/learner/pack.py",
        "np.where(episode.mask_L, episode.logp_L, 0)",
        "episode.logp_L",
        "tests/test_pack.py::test_pack_by_hand",
    ),
    Mutation(
        "qr_jax/learner/pack.py",
        "if room >= lengths[at] and",
        "if room > lengths[at] and",
        "tests/test_pack.py::test_rows_are_filled_longest_first",
    ),
    Mutation(
        "qr_jax/learner/pack.py",
        "if (drop_loss is not None and drop_loss[q][g]) or not",
        "if not",
        "tests/test_pack.py::test_episodes_taken_out_of_the_loss_keep_their_grades",
    ),
    Mutation(
        "qr_jax/learner/pack.py",
        "times_Q[item.at // samples] - 1 for",
        "times_Q[item.at // samples] for",
        "tests/test_fill.py::test_weights_give_the_gradient_of_the_batch_with_the_copies_in_it[token_mean]",
    ),
    Mutation(
        "qr_jax/learner/pack.py",
        "turns_QG=_turns(episodes_by_group, grades),",
        "turns_QG=_turns(episodes_by_group, grades) * (times_Q[:, None] < 0),",
        "tests/test_credit.py::test_an_episode_that_leaves_the_loss_stays_in_the_statistics_of_turns[stratified]",
    ),
    Mutation(
        "qr_jax/learner/reduce.py",
        "jnp.sum(tokens_Q > 0)",
        "groups",
        "tests/test_reduce.py::test_group_means_by_hand",
    ),
    Mutation(
        "qr_jax/learner/credit.py",
        "jnp.maximum(batch.episode_ME, 0) // samples",
        "jnp.maximum(batch.episode_ME, 0) % queries",
        "tests/test_learner.py::test_group_means_are_a_hand_calculation_over_micro_batches_and_on_every_mesh[mesh0]",
    ),
    Mutation(
        "qr_jax/learner/reduce.py",
        "dtype=jnp.int32) + extra_episodes",
        "dtype=jnp.int32)",
        "tests/test_reduce.py::test_what_was_drawn_and_not_accepted_joins_the_denominator",
    ),
    Mutation(
        "qr_jax/learner/reduce.py",
        "jnp.sum(length_N1 > 0,",
        "jnp.sum(length_N1 >= 0,",
        "tests/test_reduce.py::test_a_fully_masked_episode_changes_nothing",
    ),
    Mutation(
        "qr_jax/learner/update.py",
        "any_tokens & finite,",
        "any_tokens,",
        "tests/test_learner.py::test_an_update_moves_the_weights_and_one_that_is_not_finite_is_skipped_and_counted",
    ),
    Mutation(
        "qr_jax/learner/update.py",
        "now_EL, rollout_EL = jax.lax.stop_gradient(logp_EL)",
        "now_EL, rollout_EL = logp_EL",
        "tests/test_learner.py::test_an_update_moves_the_weights_and_one_that_is_not_finite_is_skipped_and_counted",
    ),
    Mutation(
        "qr_jax/learner/update.py",
        "loss_EL -= settings.entropy_weight",
        "loss_EL += settings.entropy_weight",
        "tests/test_learner.py::test_the_entropy_is_taken_off_the_loss_and_the_divergence_added[entropy_weight-entropy--1]",
    ),
    Mutation(
        "qr_jax/learner/update.py",
        "loss_EL += settings.kl_weight",
        "loss_EL -= settings.kl_weight",
        "tests/test_learner.py::test_the_entropy_is_taken_off_the_loss_and_the_divergence_added[kl_weight-kl-1]",
    ),
    Mutation(
        "qr_jax/methods/gold.py",
        "mean_X[numbers].max()",
        "mean_X[numbers].min()",
        "tests/test_gold.py::test_a_value_is_the_direct_forward_pass_of_the_better_gold",
    ),
    Mutation(
        "qr_jax/methods/gold.py",
        "history[max(len(history) - room, 0) :]",
        "history[:room]",
        "tests/test_gold.py::test_of_a_sequence_longer_than_a_row_the_left_of_the_history_is_lost",
    ),
    Mutation(
        "qr_jax/learner/advantages/grpo.py",
        'count_Q1 - (std == "sample")',
        "count_Q1",
        "tests/test_advantages.py::test_grpo_by_hand",
    ),
    Mutation(
        "qr_jax/learner/advantages/dr_grpo.py",
        "valid_QG & signal_Q[:, None],",
        "signal_Q[:, None],",
        "tests/test_advantages.py::test_invalid_samples_count_for_nothing",
    ),
    Mutation(
        "qr_jax/learner/advantages/rloo.py",
        "count_Q1 / jnp.maximum(count_Q1 - 1, 1)",
        "(count_Q1 - 1) / jnp.maximum(count_Q1, 1)",
        "tests/test_advantages.py::test_rloo_is_the_reward_less_the_siblings_mean",
    ),
    Mutation(
        "qr_jax/methods/advantages/turn_returns.py",
        "steps[None] >= steps[:, None],",
        "steps[None] > steps[:, None],",
        "tests/test_advantages.py::test_turn_returns_by_hand",
    ),
    Mutation(
        "qr_jax/methods/advantages/turn_returns.py",
        "jnp.sum(there_QGT, axis=1)",
        "jnp.sum(there_QGT, axis=1) + 1",
        "tests/test_advantages.py::test_turn_returns_by_hand",
    ),
    Mutation(
        "qr_jax/methods/advantages/igpo.py",
        "jnp.roll(gold_QGT, -1, axis=2)",
        "jnp.roll(gold_QGT, 1, axis=2)",
        "tests/test_advantages.py::test_igpo_by_hand",
    ),
    Mutation(
        "qr_jax/methods/advantages/opo.py",
        ".reshape(grades.reward_QG.shape) * grades.valid_QG",
        ".reshape(grades.reward_QG.shape)",
        "tests/test_advantages.py::test_opo_by_hand",
    ),
    Mutation(
        "qr_jax/methods/advantages/gfpo.py",
        "else -grades.reward_QG /",
        "else grades.reward_QG /",
        "tests/test_subsets.py",
    ),
    Mutation(
        "qr_jax/methods/advantages/rl_zvp.py",
        "entropy_NL - top_N1)",
        "top_N1 - entropy_NL)",
        "tests/test_advantages.py::test_rl_zvp_gives_groups_of_equal_rewards_what_entropy_says",
    ),
    Mutation(
        "qr_jax/learner/losses/clip.py",
        "jnp.clip(ratio_NL, 1 - low, 1 + high))",
        "jnp.clip(ratio_NL, 1 - high, 1 + low))",
        "tests/test_losses.py::test_clip_by_hand",
    ),
    Mutation(
        "qr_jax/learner/losses/clip.py",
        "jnp.minimum(loss_NL, -adv_NL * dual)",
        "jnp.maximum(loss_NL, -adv_NL * dual)",
        "tests/test_losses.py::test_clip_by_hand",
    ),
    Mutation(
        "qr_jax/methods/losses/cispo.py",
        "ratio_NL = jax.lax.stop_gradient(importance.ratio(logp_NL, old_logp_NL, mask_NL))",
        "ratio_NL = importance.ratio(logp_NL, old_logp_NL, mask_NL)",
        "tests/test_losses.py::test_cispo_by_hand",
    ),
    Mutation(
        "qr_jax/methods/losses/gspo.py",
        'by="geometric"',
        'by="sequence"',
        "tests/test_losses.py::test_gspo_by_hand",
    ),
    Mutation(
        "qr_jax/methods/losses/sapo.py",
        "adv_NL > 0, tau_positive, tau_negative",
        "adv_NL > 0, tau_negative, tau_positive",
        "tests/test_losses.py::test_sapo_by_hand",
    ),
    Mutation(
        "qr_jax/pool/rounds/refill.py",
        "len(so_far[-1].accepted) >= queries",
        "len(so_far[-1].accepted) > queries",
        "tests/test_rules.py::test_refill_asks_until_the_batch_is_full_and_never_raises",
    ),
    Mutation(
        "qr_jax/methods/rounds/speed.py",
        "last.accepted.tolist()",
        "last.drawn_Q.tolist()",
        "tests/test_adaptive_rounds.py::test_speed_screens_until_the_batch_is_full_and_goes_on_with_those_that_bear_signal",
    ),
    Mutation(
        "qr_jax/methods/rounds/ar3po.py",
        "len(so_far) < stages",
        "len(so_far) <= stages",
        "tests/test_adaptive_rounds.py::test_ar3po_gives_another_stage_to_queries_without_a_right_answer",
    ),
    Mutation(
        "qr_jax/methods/rounds/reinforce_ada.py",
        "(grades.valid_QG & ~positive_QG)",
        "(~positive_QG)",
        "tests/test_adaptive_rounds.py::test_a_fault_is_neither_a_right_nor_a_wrong_answer",
    ),
    Mutation(
        "qr_jax/methods/rounds/knapsack.py",
        "budget * len(drawn_Q) - int(size_Q.sum())",
        "budget * len(drawn_Q)",
        "tests/test_adaptive_rounds.py::test_knapsack_deals_the_rest_where_another_sample_is_worth_most",
    ),
    Mutation(
        "qr_jax/pool/rules/recycle.py",
        "weight_P[outcome.accepted] = consumed_weight",
        "weight_P[outcome.drawn_Q] = consumed_weight",
        "tests/test_recycling.py::test_recycle_takes_out_what_was_accepted_and_nothing_else",
    ),
    Mutation(
        "qr_jax/pool/rules/recycle.py",
        "weight_P[outcome.accepted] = consumed_weight",
        "weight_P[outcome.accepted] *= consumed_weight",
        "tests/test_recycling.py::test_soft_recycle_leaves_a_tenth_and_does_not_compound",
    ),
    Mutation(
        "qr_jax/pool/rules/grpo.py",
        'outcome.drawn_Q[outcome.verdict_Q != "fault"]',
        "outcome.drawn_Q",
        "tests/test_recycling.py::test_single_pass_rules_take_out_all_drawn_but_the_faults",
    ),
    Mutation(
        "qr_jax/methods/rules/greso.py",
        '(verdict_Q != kind) & (verdict_Q != "fault")',
        'verdict_Q == "signal"',
        "tests/test_rules.py::test_draws_over_200_steps_are_those_of_a_second_implementation[greso]",
    ),
    Mutation(
        "qr_jax/methods/rules/_passes.py",
        "if not left_P.any():",
        'if memory["visited"].all():',
        "tests/test_curricula.py::test_retire_passes_over_the_pool_without_those_nearly_always_right",
    ),
    Mutation(
        "qr_jax/methods/rules/prompt_replay.py",
        "- pool.last_step_P > pause",
        "- pool.last_step_P >= pause",
        "tests/test_curricula.py::test_prompt_replay_lets_so_many_whole_steps_go_by",
    ),
    Mutation(
        "qr_jax/methods/rules/kimi.py",
        "(np.array(pool.memory.get",
        "(np.asarray(pool.memory.get",
        "tests/test_curricula.py::test_kimi_leaves_the_memory_it_was_given_as_it_was",
    ),
    Mutation(
        "qr_jax/methods/rules/difficulty_pools.py",
        'side="left"',
        'side="right"',
        "tests/test_rules.py::test_difficulty_pools_weigh_by_the_first_threshold_that_is_not_exceeded",
    ),
    Mutation(
        "qr_jax/rollout/sampling.py",
        "jnp.cumsum(jnp.exp(sorted_SV), axis=-1) - jnp.exp(sorted_SV)",
        "jnp.cumsum(jnp.exp(sorted_SV), axis=-1)",
        "tests/test_sampling.py::test_top_p_and_top_k_by_hand",
    ),
    Mutation(
        "qr_jax/rollout/sampling.py",
        "jax.random.fold_in(jax.random.wrap_key_data(key), position)",
        "jax.random.wrap_key_data(key)",
        "tests/test_sampling.py::test_a_choice_hangs_on_its_key_and_position_and_not_on_its_slot",
    ),
    Mutation(
        "qr_jax/rollout/decode.py",
        "for number in (purpose, step):",
        "for number in (purpose,):",
        "tests/test_decode.py::test_keys_differ_by_seed_purpose_step_query_and_sample",
    ),
    Mutation(
        "qr_jax/rollout/decode.py",
        "used_S + at + 1, temperature",
        "used_S + at, temperature",
        "tests/test_decode.py::test_every_token_is_the_one_its_key_and_position_choose",
    ),
    Mutation(
        "qr_jax/rollout/cache.py",
        "entries < count_R[:, None]",
        "entries <= count_R[:, None]",
        "tests/test_decode.py::test_write_and_move_by_hand",
    ),
    Mutation(
        "qr_jax/rollout/cache.py",
        "[None] < used_R[:, None]",
        "[None] <= used_R[:, None]",
        "tests/test_decode.py::test_write_and_move_by_hand",
    ),
    Mutation(
        "qr_jax/rollout/kv_cache.py",
        "2 * tiles >= whole[0]",
        "2 * tiles > whole[0]",
        "tests/test_decode.py::test_tiles_go_in_the_smallest_calls_that_are_not_mostly_padding",
    ),
    Mutation(
        "qr_jax/rollout/live.py",
        "self.mask += [False] * len(ids)",
        "self.mask += [True] * len(ids)",
        "tests/test_engine.py::test_observations_and_prompts_may_be_nearly_nothing",
    ),
    Mutation(
        "qr_jax/rollout/live.py",
        "self.cached = len(self.ids) - 1",
        "self.cached = len(self.ids)",
        "tests/test_engine.py::test_a_turn_ends_at_the_token_that_completes_a_stop_string",
    ),
    Mutation(
        "qr_jax/rollout/live.py",
        "len(self.ids) - self.by_eos]",
        "len(self.ids)]",
        "tests/test_engine.py::test_a_turn_ends_at_the_token_that_completes_a_stop_string",
    ),
    Mutation(
        "qr_jax/rollout/slot_scheduler.py",
        "min(len(left), len(right))",
        "len(left)",
        "tests/test_slot_scheduler.py::test_common_beginnings_by_hand",
    ),
    Mutation(
        "qr_jax/rollout/slot_scheduler.py",
        "tuple(live.ids[:-1]) if is_lent",
        "len(live.ids) if is_lent",
        "tests/test_engine.py::test_samples_that_hold_the_same_compute_what_they_are_shown_once",
    ),
    Mutation(
        "qr_jax/rollout/tools.py",
        "range(retries + 1)",
        "range(retries)",
        "tests/test_tools.py::test_a_passing_failure_is_retried_after_growing_pauses_with_jitter",
    ),
    Mutation(
        "qr_jax/rollout/tools.py",
        "<= budget_tokens",
        "< budget_tokens",
        "tests/test_tools.py::test_the_last_passage_is_cut_first_by_words_and_tags_stay",
    ),
    Mutation(
        "qr_jax/rollout/tools.py",
        "sorted((rank, at) for at, ranked in enumerate(passages) for rank in range(len(ranked)))",
        "[(rank, at) for at, ranked in enumerate(passages) for rank in range(len(ranked))]",
        "tests/test_tools.py::test_the_lowest_ranks_of_all_queries_go_before_any_first_one",
    ),
    Mutation(
        "qr_jax/rollout/tools.py",
        "text=_first_chars(passage.text, chars - len(title))",
        "text=_first_chars(passage.text, chars)",
        "tests/test_tools.py::test_a_passage_that_is_short_enough_is_the_retriever_s_own",
    ),
    Mutation(
        "qr_jax/rollout/chat.py",
        "ids[ends[0] + 1 :] if",
        "ids[ends[0] :] if",
        "tests/test_chat.py::test_an_observation_repeats_no_end_token_the_model_has_sampled",
    ),
    Mutation(
        "qr_jax/rollout/lanes.py",
        "                failed.set()",
        "                pass",
        "tests/test_engine.py::test_what_fails_in_one_lane_ends_both_and_is_what_is_told",
    ),
    Mutation(
        "qr_jax/rollout/live.py",
        '(seconds if name.endswith("_s") else sum)(each)',
        "seconds(each)",
        "tests/test_engine.py::test_lanes_give_the_same_episodes_each_time_and_count_both",
    ),
    Mutation(
        "qr_jax/cli/interrupts.py",
        "if _heard or _imports(frame):",
        "if _heard:",
        "tests/test_cli.py::test_ctrl_c_while_a_module_is_imported_ends_the_process_there",
    ),
    Mutation(
        "qr_jax/rollout/engine.py",
        'return self.finish(live, "fault", fault=faults[0].reason)',
        'return self.finish(live, "no_action")',
        "tests/test_engine.py::test_one_search_that_fails_makes_one_fault",
    ),
    Mutation(
        "qr_jax/rollout/engine.py",
        "len(live.ids) + len(ids) >= self.settings.context_tokens",
        "len(live.ids) + len(ids) > self.settings.context_tokens",
        "tests/test_engine.py::test_an_observation_must_leave_room_for_one_token",
    ),
    Mutation(
        "qr_jax/rollout/engine.py",
        'np.argsort(-np.asarray(expected_tokens), kind="stable")',
        'np.argsort(np.asarray(expected_tokens), kind="stable")',
        "tests/test_slot_scheduler.py::test_the_longest_begin_first_and_results_come_in_the_order_asked",
    ),
    Mutation(
        "qr_jax/lab/differences.py",
        "np.std(known, ddof=1)",
        "np.std(known)",
        "tests/test_oracle.py::test_means_over_seeds_by_hand",
    ),
    Mutation(
        "qr_jax/lab/oracle.py",
        "while spent < plan.rollouts:",
        "while spent <= plan.rollouts:",
        "tests/test_oracle.py::test_a_budget_spent_to_the_last_rollout_ends_the_run",
    ),
    Mutation(
        "qr_jax/lab/oracle.py",
        "np.arange(word_QG.shape[1]) < samples_Q[:, None]",
        "np.arange(word_QG.shape[1]) <= samples_Q[:, None]",
        "tests/test_oracle_rounds.py::test_a_sample_is_one_number_whenever_it_is_asked_for",
    ),
    Mutation(
        "qr_jax/lab/oracle.py",
        "seed=outcome.seed, step=outcome.step)",
        "seed=outcome.seed, step=outcome.step + 1)",
        "tests/test_oracle_rounds.py::test_what_moved_is_counted_where_groups_are_of_unequal_size",
    ),
    Mutation(
        "qr_jax/dialect.py",
        'elif opened != "think":',
        "elif opened:",
        "tests/test_envs.py::test_search_r1_reads_the_first_action",
    ),
    Mutation(
        "qr_jax/dialect.py",
        "return tuple(blocks), opened is None",
        "return tuple(blocks), True",
        "tests/test_thoughts.py::test_a_message_of_the_cold_start_has_one_thought_closed_and_the_turn_s_acts",
    ),
    Mutation(
        "qr_jax/dialect.py",
        "    folded = nfkc(text)\n",
        "    folded = text\n",
        "tests/test_injection.py::test_what_looks_like_a_tag_is_made_inert",
    ),
    Mutation(
        "qr_jax/sets/made_traces.py",
        "self.gold <= {passage.id for passage in passages} and any(map(",
        "any(map(",
        "tests/test_traces.py::test_two_passages_of_one_title_must_both_be_found_by_one_search",
    ),
    Mutation(
        "qr_jax/sets/made_traces.py",
        "(*titles, query.question, query.answers[0])",
        "(*titles, query.question)",
        "tests/test_traces.py::test_a_question_is_left_out_when_a_gold_passage_is_not_found_or_not_known",
    ),
    Mutation(
        "qr_jax/sets/made_traces.py",
        ">= 2][:parallel]",
        ">= 1][:parallel]",
        "tests/test_traces.py::test_one_search_a_turn_keeps_the_order_in_which_titles_are_found",
    ),
    Mutation(
        "qr_jax/methods/rewards/reseek.py",
        "answers.first_in(_format.shown(found), query.answers) is not None",
        "found != []",
        "tests/test_search_rewards.py::test_reseek_pays_the_verdicts_by_hand",
    ),
    Mutation(
        "qr_jax/methods/rewards/ikea.py",
        "np.where(right_G == 1, 1 + bonus",
        "np.where(right_G == 0, 1 + bonus",
        "tests/test_methods.py::test_an_expert_earns_more_than_who_answers_wrong_and_who_does_not_answer[ikea]",
    ),
    Mutation(
        "qr_jax/methods/rules/search_gym.py",
        "(outcome.step + 1 >= steps)",
        "(outcome.step >= steps)",
        "tests/test_curricula.py::test_search_gym_passes_over_the_simple_ones_and_from_its_second_stage_over_all",
    ),
    Mutation(
        "qr_jax/methods/fill.py",
        "max(places - groups, 0)",
        "places",
        "tests/test_fill.py::test_each_empty_place_repeats_a_group_by_chance",
    ),
    Mutation(
        "qr_jax/lab/model_card.py",
        'faults and are left out." * run.incomplete',
        'faults and are left out." * 0',
        "tests/test_evaluate.py::test_a_score_over_too_few_questions_is_marked_where_runs_are_compared_and_exported",
    ),
    Mutation(
        "qr_jax/run/run_lock.py",
        "        if os.path.samestat(os.fstat(file.fileno()), (folder / NAME).stat()):\n",
        "        if True:\n",
        "tests/test_run_lock.py::test_a_folder_set_aside_while_another_start_takes_it_is_not_locked_by_its_old_file",
    ),
    Mutation(
        "qr_jax/data/characters.py",
        "MARKS = 30 ",
        "MARKS = 99_999 ",
        "tests/test_characters.py::test_forty_thousand_marks_take_no_time",
    ),
    Mutation(
        "qr_jax/train.py",
        "        run.checkpoints.wait()  # a summary says that the run is finished\n",
        "",
        "tests/test_train.py::test_a_run_killed_at_its_end_goes_on_to_the_same_bytes",
    ),
    Mutation(
        "qr_jax/step/rollout_and_grade.py",
        "        ended.wait()\n",
        "",
        "tests/test_overlap.py::test_an_update_waits_with_its_optimizer_for_the_episodes_beside_it",
    ),
    Mutation(
        "qr_jax/learner/learner.py",
        "return (batch.rollout_logp_MEL,) if self.recorded else ()",
        "return ()",
        "tests/test_learner.py::test_with_overlap_ratios_are_against_what_the_sampler_recorded_and_weights_against_the_policy_before_the_update",
    ),
    Mutation(
        "qr_jax/models/quantized.py",
        "/ MOST\n",
        "/ 128\n",
        "tests/test_int8.py::test_steps_and_scale_are_a_hand_calculation_and_no_value_is_off_by_more_than_half_a_step",
    ),
    Mutation(
        "qr_jax/models/cached_attention.py",
        "    weight, values = _with_scale(weight, v_TKBd).astype(q.dtype), cast(v_TKBd, q.dtype)\n",
        "    weight, values = weight.astype(q.dtype), cast(v_TKBd, q.dtype)\n",
        "tests/test_int8.py::test_attention_over_an_int8_cache_is_that_over_the_keys_and_values_it_stands_for",
    ),
    Mutation(
        "qr_jax/models/incremental.py",
        "lora.merges(dtype) and not int8",
        "lora.merges(dtype)",
        "tests/test_int8.py::test_adapters_lie_beside_int8_matrices_and_keep_what_an_update_changes",
    ),
    Mutation(
        "qr_jax/settings/checks.py",
        """    if rounded and learner.importance == "off":""",
        """    if False and learner.importance == "off":""",
        "tests/test_int8.py::test_a_run_by_int8_measures_the_gap_and_weighs_by_it",
    ),
    Mutation(
        "qr_jax/rollout/tools.py",
        "else [_by_tool(pending)]:",
        "else [[pending]]:",
        "tests/test_several_tools.py::test_a_tool_that_hangs_or_fails_faults_its_own_calls_alone",
    ),
    Mutation(
        "qr_jax/tools/_of_run.py",
        ".translate(INERT)",
        "",
        "tests/test_several_tools.py::test_no_description_of_a_tool_opens_a_tag_and_its_name_is_one",
    ),
)


def copy(folder: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".venv"))
        else:
            shutil.copy2(ROOT / name, folder / name)


def test(folder: Path, tests: Sequence[str]) -> int:
    """The exit code of pytest on the copy, in a process of its own; HANGS where it does not end."""
    child = multiprocessing.get_context("fork").Process(target=_test, args=(folder, tests))
    child.start()
    child.join(LIMIT_S * len(tests))
    if child.exitcode is None:
        child.kill()
        child.join()
        return HANGS
    return child.exitcode


def _test(folder: Path, tests: Sequence[str]) -> None:
    import pytest

    os.chdir(folder)
    sys.dont_write_bytecode = True  # a file planted and mended within a second looks unchanged to what is kept
    sys.path[:] = [str(folder), *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with open("output.txt", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        code = pytest.main(["-x", "-q", "--rootdir", str(folder), "-p", "no:cacheprovider", *tests])
        sys.stdout.flush()
    os._exit(int(code))


def plant(folder: Path, mutation: Mutation) -> tuple[str, int]:
    """What came of the mutation, and its line (0: not found). A file that cannot be imported is no test that failed."""
    file = folder / mutation.file
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if text.count(mutation.found) != 1:
        return NOT_PLANTED, 0
    file.write_text(text.replace(mutation.found, mutation.planted), encoding="utf-8")
    code = test(folder, [mutation.killed_by])
    file.write_text(text, encoding="utf-8")
    failed = code == HANGS or "\nFAILED " in (folder / "output.txt").read_text(errors="replace")
    return LIVES if code == 0 else DIED if failed else NO_TEST, mutation.line(text)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a word of a mutation's file, texts or test")
    only, began = parser.parse_args(words).only, time.monotonic()
    chosen = [mutation for mutation in MUTATIONS if any(only in text for text in mutation)]
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when jax is imported
    import jax  # noqa: F401 - once, for all that are forked
    import optax  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="qr_jax_mutations_") as name:
        folder = Path(name)
        copy(folder)
        if test(folder, sorted({mutation.killed_by for mutation in chosen})):
            print((folder / "output.txt").read_text(errors="replace"))
            print("a test that is named fails without any mutation")
            return 1
        results = Counter()
        for mutation in chosen:
            result, line = plant(folder, mutation)
            results[result] += 1
            print(f"{result:11} {mutation.file}:{line} {mutation.planted.strip()!r} ({mutation.killed_by})", flush=True)
    told = ", ".join(f"{count} {result}" for result, count in results.items())
    print(f"{len(chosen)} mutations in {time.monotonic() - began:.0f} s: {told}")
    return 0 if set(results) <= {DIED} else 1


if __name__ == "__main__":
    sys.exit(main())
