"""Configs: loading, overrides as people type them, the JSON round trip, and what is refused at the door."""

import dataclasses
import importlib
import json
import sys
from typing import Annotated, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qr_jax import config
from qr_jax.cli import overrides
from qr_jax.config import Config, use
from qr_jax.lab import suite
from qr_jax.settings import checks
from qr_jax.settings.settings import type_hints


def made(tmp_path, *typed, text="from qr_jax.config import Config\nconfig = Config()\n"):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return config.load(path, list(typed))


def with_(**sections):
    """The default config with settings of its sections replaced: with_(pool={"samples": 1})."""
    base = Config()
    changed = {name: dataclasses.replace(getattr(base, name), **values) for name, values in sections.items()}
    return dataclasses.replace(base, **changed)


def test_the_default_config_has_no_problems():
    assert checks.problems(Config()) == []


@pytest.mark.parametrize("context", [256, 1024, 4096, 32_768])
def test_the_config_of_a_model_without_its_own_has_no_problems(context):
    assert checks.problems(suite.default_config("m", context)) == []


def test_a_config_file_defines_a_config_or_a_function_that_makes_one(tmp_path):
    text = "from qr_jax.config import Config, Pool\ndef config():\n    return Config(pool=Pool(queries=7))\n"
    assert made(tmp_path, text=text).pool.queries == 7


def test_an_unknown_field_in_a_config_file_is_a_value_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match="quries"):
        made(tmp_path, text="from qr_jax.config import Config, Pool\nconfig = Config(pool=Pool(quries=7))\n")
    with pytest.raises(ValueError, match="has no config 'config'; wanted `config = "):
        made(tmp_path, text="x = 1\n")


def test_a_config_that_is_not_there_names_the_nearest(tmp_path):
    (tmp_path / "quickstart.py").write_text("")
    with pytest.raises(ValueError, match=r"did you mean .*quickstart\.py"):
        config.load(tmp_path / "quickstrat.py")


@pytest.mark.parametrize(
    ("typed", "section", "setting", "value"),
    [
        ("learner.lr=1e-3", "learner", "lr", 1e-3),
        ("learner.lr=1", "learner", "lr", 1.0),
        ("train.steps=1e3", "train", "steps", 1000),
        ("train.steps=1_000", "train", "steps", 1000),
        ("log.wandb=true", "log", "wandb", True),
        ("mesh.devices=8", "mesh", "devices", 8),
        ("mesh.devices=none", "mesh", "devices", None),
        ("rollout.buckets=16,64", "rollout", "buckets", (16, 64)),
        ("learner.betas=(0.8, 0.9)", "learner", "betas", (0.8, 0.9)),
        ("log.aliases=verl,trl", "log", "aliases", ("verl", "trl")),
        ("log.aliases=", "log", "aliases", ()),
        ("model.compute=bfloat16", "model", "compute", "bfloat16"),
        ("data.train=a.jsonl,b.jsonl", "data", "train", "a.jsonl,b.jsonl"),
        ("trainer.total_training_steps=330", "train", "steps", 330),
        ("trainer.save_freq=5", "train", "checkpoint_every", 5),
        ("trainer.test_freq=20", "evaluation", "every", 20),
        ("data.train_files=mine.jsonl", "data", "train", "mine.jsonl"),
    ],
)
def test_an_override_is_read_by_its_settings_type(typed, section, setting, value):
    found = getattr(getattr(overrides.override(Config(), [typed]), section), setting)
    assert found == value
    assert type(found) is type(value)


def test_plug_ins_are_replaced_by_name_and_set_by_short_or_long_names():
    found = overrides.override(Config(), ["loss.high=0.3", "learner.loss.dual=none", "pool.rule=grpo", "env=tool_call"])
    assert found.learner.loss == use("clip", high=0.3, dual=None)
    assert (found.pool.rule, found.env) == (use("grpo"), use("tool_call"))
    # A name comes before its settings whatever the order, and forgets the old ones.
    start = dataclasses.replace(Config(), retriever=use("bm25", k1=2.0))
    assert overrides.override(start, ["retriever.b=0.5", "retriever=bm25"]).retriever == use("bm25", b=0.5)


def test_a_section_set_by_name_is_made_anew():
    start = with_(model={"name": "org/big", "compute": "bfloat16", "remat": "full"})
    assert overrides.override(start, ["model=two_layer"]).model == config.Model("two_layer")
    again = overrides.override(start, ["model.remat=dots", "model=two_layer"])
    assert again.model == config.Model("two_layer", remat="dots")


def test_settings_of_the_world_are_set_by_name():
    found = overrides.override(Config(), ["data.world.seed=3", "data.world.hops=0.5,0.5"])
    assert found.data.world == {"seed": 3, "hops": (0.5, 0.5)}
    assert checks.problems(found) == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("learner.lrr=1", "learner.lr"),
        ("lr=1", "learner.lr or sft.lr"),
        ("pol.queries=1", "pool.queries"),
        ("loss.hihg=0.3", "loss 'clip' has no setting 'hihg'; its settings are: low, high, dual"),
        ("loss.high=big", "wanted a number"),
        ("learner.lr=fast", "learner.lr is 'fast' .*wanted a number"),
        ("train.steps=1.5", "wanted a whole number"),
        ("log.wandb=perhaps", "wanted true or false"),
        ("model.compute=float16", "one of 'float32', 'bfloat16'"),
        ("learner.betas=0.9", "a list of 2"),
        ("learner=3", "is a section"),
        ("data.world=3", "one by one"),
        ("seed.x=3", "is one value"),
        ("steps", "no override"),
        ("learner.lr=nan", "wanted a number"),
        ("learner.lr=1_0", "learner.lr is '1_0' .*wanted a number"),
        ("train.steps=1_0000", "train.steps is '1_0000' .*wanted a whole number"),
        ("learner.lr=1e400", "learner.lr is inf .*wanted a number"),
        ("train.steps=1e30", "train.steps is 1000000000000000019884624838656; wanted a whole number between"),
        ("train.steps=" + "9" * 5000, r"train.steps is '9+\.\.\. \(5,002 characters\) .*wanted a whole number"),
        ("data.world" + "." * 2000 + "=1", "has 2,001 dots; no setting has more than 32"),
    ],
)
def test_what_cannot_be_overridden_says_what_was_found_and_what_is_wanted(typed, said):
    with pytest.raises(ValueError, match=said):
        overrides.override(Config(), [typed])


def test_secrets_are_refused_without_repeating_them_and_redacted(monkeypatch):
    with pytest.raises(ValueError, match="environment") as error:
        overrides.override(Config(), ["retriever.api_key=hunter2secret"])
    assert "hunter2secret" not in str(error.value)
    found = checks.problems(dataclasses.replace(Config(), retriever=use("bm25", token="hunter2secret")))
    assert any("environment variable" in line for line in found)
    assert not any("hunter2secret" in line for line in found)
    monkeypatch.setenv("MY_API_KEY", "hunter2secret")
    from qr_jax.logging.secrecy import looks_secret, redact

    assert redact("Bearer hunter2secret!") == "Bearer [redacted]!"
    assert not any(looks_secret(name) for name in overrides.known_names(Config()))
    assert all(map(looks_secret, ("DB_APIKEY", "GITHUB_PAT", "DB_PASS", "X-Amz-Signature", "sig")))


SETTINGS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: not isinstance(value, dict) or set(value) != {"name", "settings"})


@given(settings=st.dictionaries(st.text(min_size=1, max_size=8), SETTINGS, max_size=4), lr=st.floats(1e-12, 1e3))
def test_json_gives_the_same_config_back(settings, lr):
    start = dataclasses.replace(with_(learner={"lr": lr}), env=use("search_r1", **settings))
    text = json.dumps(config.to_json(start), allow_nan=False)
    again = config.from_json(json.loads(text))
    assert again == start
    assert json.dumps(config.to_json(again)) == text
    assert config.fingerprint(again) == config.fingerprint(start)


def test_a_plug_in_inside_a_plug_in_survives_json():
    start = dataclasses.replace(Config(), retriever=use("hybrid", parts=(use("bm25", k1=2.0), use("none"))))
    assert config.from_json(json.loads(json.dumps(config.to_json(start)))) == start


def test_a_setting_that_a_config_s_section_does_not_have_is_told_with_its_nearest(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from qr_jax.config import Config, Train\n\nconfig = Config(train=Train(step=3))\n")
    with pytest.raises(ValueError, match=r"mine.py, line 3: TypeError: .* argument 'step'; did you mean steps\?"):
        config.load(path)


def test_a_run_s_config_json_can_be_loaded_and_overridden(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_json(with_(pool={"queries": 5}))))
    found = config.load(path, ["pool.samples=3"])
    assert (found.pool.queries, found.pool.samples) == (5, 3)
    path.write_text('{"pool": {"quries": 5}}')
    with pytest.raises(ValueError, match=r"unknown setting pool\.quries; did you mean queries"):
        config.load(path)


def test_digits_too_many_for_a_number_stay_a_text():
    assert config.load("configs/quickstart.py", ["env.prompt=" + "9" * 400]).env.settings["prompt"] == "9" * 400
    assert overrides.override(Config(), ["data.world.seed=" + "9" * 400]).data.world["seed"] == "9" * 400


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"env": {}}, "env is {}, without 'name'; wanted env.name, text"),
        ({"env": {"settings": {}}}, "env is {'settings': {}}, without 'name'"),
        ({"seed": 10**400}, r"seed is 10+\.\.\. \(401 characters\); wanted a whole number between"),
        ({"seed": 10**5000}, "seed is a int too large to show; wanted a whole number between"),
        ({"learner": {"lr": 10**400}}, "learner.lr is 10+.*; wanted a whole number between"),
        ({"data": {"world": {"people": 10**400}}}, "data.world.people is 10+.*; wanted a whole number between"),
        ({"seed": "x" * 9000}, r"seed is 'x+\.\.\. \(9,002 characters\) \(str\); wanted a whole number"),
    ],
)
def test_a_value_that_no_setting_holds_is_refused_by_name(written, said):
    with pytest.raises(ValueError, match=said):
        config.from_json(written)


def test_settings_nested_beyond_reason_are_refused():
    deep: list = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(ValueError, match=r"env\.settings\.x\[0\].* is nested more than 32 deep"):
        config.from_json({"env": {"name": "search_r1", "settings": {"x": deep}}})


def test_fingerprints_differ_when_a_setting_does():
    assert config.fingerprint(Config()) != config.fingerprint(with_(pool={"samples": 5}))
    assert config.fingerprint(with_(learner={"lr": 1})) == config.fingerprint(with_(learner={"lr": 1.0}))


def test_rows_that_do_not_divide_name_the_nearest_number_that_does():
    found = checks.problems(with_(learner={"rows": 10}, mesh={"data": 2, "fsdp": 2}))
    said = "learner.rows=10 does not divide over mesh.data=2 x mesh.fsdp=2 = 4 devices; the nearest that does is 12"
    assert found == [said]


@pytest.mark.parametrize(("name", "value", "off"), [("top_p", 0.8, 1), ("top_k", 40, 0), ("top_k", -1, 0)])
def test_training_samples_from_all_tokens_and_an_evaluation_may_restrict_its_samples(name, value, off):
    (found,) = checks.problems(with_(rollout={name: value}))
    assert found.startswith(
        f"rollout.{name} is {value}; wanted {off}: tokens would come from a restricted distribution"
    )
    assert "of the whole vocabulary" in found and f"evaluation.{name}" in found
    assert checks.problems(with_(rollout={name: type(value)(off)}, evaluation={name: max(value, 0)})) == []


def test_a_config_of_a_version_whose_evaluations_had_no_top_p_goes_on():
    written = json.loads(json.dumps(config.to_json(Config())))
    assert written["rollout"]["top_p"] == 1.0 and written["rollout"]["top_k"] == 0
    del written["evaluation"]["top_p"], written["evaluation"]["top_k"]
    assert config.from_json(written) == Config() and checks.problems(config.from_json(written)) == []


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"pool": {"samples": 1}}, "pool.samples is 1"),
        ({"pool": {"oversample": 0}}, "pool.oversample is 0"),
        ({"pool": {"reset_below": 1.5}}, "pool.reset_below is 1.5"),
        ({"rollout": {"temperature": 0.0}}, "rollout.temperature is 0.0; wanted at least 0.01"),
        ({"rollout": {"temperature": 1e-46}}, "rollout.temperature is 1e-46; wanted at least 0.01: logits"),
        ({"evaluation": {"top_p": 1.5}}, "evaluation.top_p is 1.5; wanted a share"),
        ({"evaluation": {"top_p": 0.0}}, "evaluation.top_p is 0.0; wanted a share, more than 0"),
        ({"evaluation": {"top_k": -1}}, "evaluation.top_k is -1; wanted at least 0 (0 is off)"),
        ({"rollout": {"context_tokens": 2048}}, "does not fit a row of learner.row_tokens=1024"),
        ({"rollout": {"turn_tokens": 512, "context_tokens": 512}}, "rollout.turn_tokens=512 leaves nothing for the"),
        ({"rollout": {"buckets": (128, 32)}}, "wanted growing numbers of tokens"),
        ({"train": {"profile": "12:10"}}, "train.profile is 12:10; wanted FROM:TO, counted from 0"),
        ({"train": {"profile": "a:b"}}, "train.profile is a:b; wanted FROM:TO, counted from 0"),
        ({"train": {"profile": "10"}}, "train.profile is 10; wanted FROM:TO, counted from 0"),
        ({"train": {"profile": "10:12", "steps": 10}}, "train.profile=10:12 begins after the last of train.steps=10"),
        ({"mesh": {"data": 2, "devices": 8}}, "is 2 devices, but mesh.devices is 8"),
        ({"learner": {"lr": "1e-3"}}, "learner.lr is '1e-3' (str); wanted a number"),
        ({"learner": {"loss": use("clop")}}, "did you mean clip?"),
        ({"learner": {"loss": use("clip", hihg=1)}}, "its settings are: low, high, dual"),
        ({"data": {"train": "nowhere.jsonl"}}, "nowhere.jsonl"),
        ({"data": {"train": "n" * 300}}, "no file nnn"),
        ({"data": {"corpus": f"tfds:hotpotqa/distractor@{'n' * 300}"}}, "no folder nnn"),
        ({"model": {"name": f"{'n' * 300}.gguf"}}, "which is not there"),
        ({"data": {"world": {"peeple": 3}}}, "did you mean people?"),
        ({"train": {"init": "runs/nowhere"}}, "runs/nowhere"),
        ({"rollout": {"store": 0}}, "rollout.store is 0; wanted at least 1"),
        ({"train": {"steps": 0}}, "train.steps is 0; wanted at least 1 (a cold start alone is `qr-jax sft`)"),
        ({"data": {"trace_worlds": -1}}, "data.trace_worlds is -1; wanted at least 0"),
        ({"data": {"corpus": __file__}}, "its passages say nothing of that world"),
        ({"data": {"corpus": __file__, "eval": __file__}}, "data.train is 'world', but data.corpus is"),
        ({"data": {"corpus": "supporting"}}, "data.corpus is 'supporting', which only data.traces may be"),
        ({"data": {"train": "retrieved"}}, "data.train is 'retrieved', which only data.traces may be"),
        ({"learner": {"keep_zero_variance": True}, "pool": {"min_signal": 2}}, "set pool.min_signal=1 or"),
        ({"learner": {"keep_zero_variance": True, "fill": True}}, "set one of the two to false"),
        ({"learner": {"reduce": "group_mean", "fill": True}}, "learner.fill=True would count others or a part; set"),
        ({"learner": {"reduce": "group_mean", "updates": 2, "over": "drawn"}}, "learner.over=drawn, learner.updates=2"),
        ({"learner": {"kl": "k1", "kl_weight": 0.1}}, "use k2 or k3"),
        ({"learner": {"advantage": use("turn_returns")}}, "wants turn rewards, and reward 'exact_match' gives none"),
        ({"guards": {"act": "rollback"}}, "set guards.probe_every=5, or guards.act=stop"),
        ({"evaluation": {"every": 5, "every_rollouts": 100}}, "set one of the two to 0"),
        ({"evaluation": {"every_rollouts": -1}}, "evaluation.every_rollouts is -1; wanted at least 0"),
    ],
)
def test_a_wrong_setting_is_a_problem(sections, said):
    found = checks.problems(with_(**sections))
    assert any(said in line for line in found), found


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (use("search_r1", max_turns=-1), "env 'search_r1': max_turns is -1; wanted at least 0"),
        (use("tool_call", max_queries=0), "env 'tool_call': max_queries is 0; wanted at least 1"),
    ],
)
def test_a_plug_in_says_the_least_of_its_settings(env, said):
    assert said in checks.problems(dataclasses.replace(with_(), env=env))
    assert checks.problems(dataclasses.replace(with_(), env=use(env.name, max_turns=0))) == []


def test_turn_rewards_and_shuffled_rewards_do_not_go_together():
    settings = dataclasses.replace(with_(train={"shuffle_rewards": True}), reward=use("e_grpo"))
    assert any(
        "deals rewards over episodes, and reward 'e_grpo' gives some" in line for line in checks.problems(settings)
    )


def test_settings_that_can_stand_together_are_no_problem():
    assert checks.problems(with_(learner={"keep_zero_variance": True, "kl": "k1"}, pool={"min_signal": 1})) == []
    assert checks.problems(with_(learner={"kl": "k3", "kl_weight": 0.1}, pool={"min_signal": 2})) == []
    assert checks.problems(with_(data={"traces": "supporting"}, rollout={"store": 1})) == []


def test_questions_from_files_want_their_own_evaluation_passages_and_traces(tmp_path):
    names = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "eval", "corpus", "traces")}
    for path in names.values():
        (tmp_path / path).write_text("")

    def found(steps=1, **data):
        return checks.problems(with_(data=data, sft={"steps": steps}))

    lines = found(train=names["train"])
    assert [line.partition(";")[0] for line in lines] == [
        "data.train is files, but data.eval is still 'world'",
        "data.train is files, but data.traces is still 'world' and sft.steps=1",
        "data.train is files, but data.corpus is still 'world'",
    ]
    served = with_(data={"train": names["train"], "eval": names["eval"]}, sft={"steps": 0})
    assert len(checks.problems(served)) == 1
    assert checks.problems(dataclasses.replace(served, retriever=use("http", url="http://127.0.0.1:1"))) == []
    assert "set data.corpus to" in lines[2]
    assert len(found(0, train=names["train"])) == 2
    assert found(**names) == found(**names | {"traces": "supporting"}) == []
    assert found(0, **names | {"traces": "world"}) == []


def test_evaluation_on_the_training_questions_is_refused(tmp_path):
    for name in ("a", "b", "corpus"):
        (tmp_path / name).write_text("")
    one, same = f"{tmp_path}/a,{tmp_path}/b", f"{tmp_path}/b, {tmp_path}/a"
    files = {"train": one, "eval": same, "corpus": str(tmp_path / "corpus")}
    (line,) = checks.problems(with_(data=files))
    assert "are the same files" in line and "use data.split=sha256 or other files" in line
    assert checks.problems(with_(data=files | {"split": "sha256"})) == []
    apart = files | {"eval": f"{tmp_path}/b"} | {"train": f"{tmp_path}/a"}
    assert checks.problems(with_(data=apart)) == []
    (line,) = checks.problems(with_(data=apart | {"split": "sha256"}))
    assert "of each a part would be left out; set data.split=given" in line


def test_wandb_is_refused_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (tmp_path / "wandb").mkdir()  # what a run leaves where it was started; no package
    wanted = "log.wandb=true needs the package wandb: pip install 'qr_jax[wandb]'"
    assert checks.problems(with_(log={"wandb": True})) == [wanted]
    (tmp_path / "wandb" / "__init__.py").write_text("")
    importlib.invalidate_caches()
    assert checks.problems(with_(log={"wandb": True})) == []


def test_all_problems_are_listed_at_once():
    with pytest.raises(ValueError, match="2 problems") as error:
        checks.check(with_(pool={"samples": 1, "queries": 0}))
    assert "pool.samples" in str(error.value)
    assert "pool.queries" in str(error.value)


def test_the_mesh_is_held_against_the_devices_once_they_are_known():
    checks.check(with_(mesh={"fsdp": 8}), devices=8)
    with pytest.raises(ValueError, match="is 8 devices, but there are 4"):
        checks.check(with_(mesh={"fsdp": 8}), devices=4)


def test_a_checked_config_has_its_values_converted():
    assert checks.check(dataclasses.replace(with_(), env="search_r1")).env == use("search_r1")
    assert checks.check(config.to_json(with_())) == with_()


def test_rows_divide_over_the_devices_that_learn():
    apart = {"train": {"overlap": 1}, "learner": {"rows": 4}}
    (line,) = checks.problems(with_(mesh={"devices": 4, "rollout_devices": 1}, **apart))
    assert line.startswith("learner.rows=4 does not divide over mesh.devices=4 less mesh.rollout_devices=1")
    assert checks.problems(with_(mesh={"devices": 3, "rollout_devices": 1}, **apart)) == []
    lines = checks.problems(with_(mesh={"devices": 2, "rollout_devices": 2}, **apart))
    assert "mesh.rollout_devices=2 of mesh.devices=2 leave none to learn; set fewer" in lines


def test_devices_that_roll_out_stand_beside_those_that_learn():
    apart = with_(mesh={"fsdp": 2, "devices": 4, "rollout_devices": 2}, train={"overlap": 1})
    assert checks.problems(apart) == []
    (line,) = checks.problems(dataclasses.replace(apart, mesh=dataclasses.replace(apart.mesh, devices=3)))
    assert line.endswith("is 3; the sum must be equal, with as many on each host")


def test_what_a_plug_in_s_file_declares_must_go_with_the_config(tmp_path, monkeypatch):
    (tmp_path / "declared.py").write_text(
        "MAX_GROUP_SIZE = 3\nZERO_VARIANCE = 'gradient'\n"
        "def rounds(pool, so_far):\n    pass\n"
        "def advantage(grades):\n    pass\n"
        "def loss(logp_NL):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (line,) = checks.problems(with_(pool={"rounds": use("declared.rounds")}))
    assert line == "pool.samples=4, but pool.rounds='declared.rounds' has MAX_GROUP_SIZE = 3"
    assert checks.problems(with_(pool={"rounds": use("declared.rounds"), "samples": 3})) == []
    for kind in ("advantage", "loss"):
        (line,) = checks.problems(with_(learner={kind: use(f"declared.{kind}")}))
        assert line.startswith(f"{kind} 'declared.{kind}' learns from groups of equal rewards too, and none reaches it")
        assert checks.problems(with_(learner={kind: use(f"declared.{kind}"), "keep_zero_variance": True})) == []
    (tmp_path / "mute.py").write_text("def env(query, turns):\n    pass\ndef gold(grades, gold_logp_NT):\n    pass\n")
    mute = dataclasses.replace(with_(sft={"steps": 3}, learner={"advantage": use("mute.gold")}), env=use("mute.env"))
    start, gold = checks.problems(mute)
    assert "has no function expert_turn" in start and "sft.steps=0" in start and "asks for gold_logp_NT" in gold
    assert checks.problems(dataclasses.replace(with_(), env=use("mute.env"))) == []
    (line,) = checks.problems(with_(learner={"keep_zero_variance": True}, pool={"rounds": use("refill")}))
    assert "pool.rounds='refill' draws no fixed number of them (its file declares no MAX_ROUNDS = 1)" in line
    assert checks.problems(with_(learner={"keep_zero_variance": True})) == []


def test_the_quickstart_is_watched_with_fewer_questions_and_a_study_of_it_with_all():
    """200 questions while it goes on; what a study reports are means of its last evaluations, each of all questions."""
    whole = config.load("configs/quickstart.py").evaluation
    assert (whole.every, whole.during, whole.questions) == (20, 200, 1000)
    for name in ("s1", "s2", "s3", "s4", "s5", "s6", "s7"):
        one = config.load(f"configs/study/settings.py:{name}").evaluation
        assert (one.every, one.during, one.questions) == (0, None, 1000)


def test_a_step_of_more_episodes_than_a_host_holds_is_refused_with_what_they_are():
    """It was numpy's traceback after the cold start, or the system's kill."""
    (problem,) = checks.problems(with_(pool={"samples": 1_000_000, "queries": 32, "oversample": 1}))
    assert "pool.samples=1000000 are 32,000,000 episodes a step; wanted at most 100,000" in problem


def test_every_number_of_the_config_has_a_bound_beside_its_type():
    def without(section, before=""):
        for name, hint in type_hints(section).items():
            if dataclasses.is_dataclass(hint) and hint is not config.Use:
                yield from without(hint, f"{before}{name}.")
            elif {int, float} & {hint, *(get_args(hint) if get_origin(hint) is not Annotated else ())}:
                yield before + name

    assert list(without(Config)) == []


def test_a_command_that_plays_a_model_needs_no_plug_in_of_pool_and_learner():
    gone = with_(pool={"rule": use("gone.rule")}, learner={"loss": use("gone.loss")})
    rule, loss = checks.problems(gone)
    assert rule.startswith("rule 'gone.rule' is not there") and loss.startswith("loss 'gone.loss' is not there")
    assert checks.problems(gone, reads=("eval", "corpus"), trains=False) == []
    (line,) = checks.problems(dataclasses.replace(gone, env=use("gone.env")), reads=(), trains=False)
    assert line.startswith("env 'gone.env' is not there")


def test_a_config_may_define_a_dataclass_with_annotations_that_are_texts(tmp_path):
    """As `dataclasses` reads them, the file must be a module while it runs."""
    lines = ["from __future__ import annotations", "from dataclasses import dataclass", "import qr_jax.config as c"]
    lines += ["@dataclass", "class Mine:", "    steps: int = 3", "config = c.Config(train=c.Train(steps=Mine().steps))"]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    assert config.load(tmp_path / "mine.py").train.steps == 3


def test_a_setting_that_is_none_is_told_with_the_nearest_in_a_python_config_too(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from qr_jax.config import Config, Learner\nconfig = Config(learner=Learner(rowz=2))\n")
    with pytest.raises(ValueError, match="'rowz'; did you mean rows"):
        config.load(file)
