"""What `qr-jax settings` lists: every setting, with its type, its default and what it means."""

import json

import pytest

from qr_jax import plugins
from qr_jax.cli import cli, meanings, overrides
from qr_jax.config import Config
from qr_jax.interfaces import CONTRACTS


@pytest.mark.house
def test_every_setting_has_a_meaning():
    every = [(section.name, setting) for section in meanings.sections() for setting in section.settings]
    bare = [f"{section}: {setting.name}" for section, setting in every if len(setting.meaning) < 5]
    assert not bare, "write a comment beside it"
    assert all(setting.type for _, setting in every)


def test_all_settings_of_the_config_and_of_every_plug_in_are_listed():
    sections = meanings.sections()
    listed = {setting.name for section in sections for setting in section.settings}
    assert set(overrides.known_names(Config())) <= listed
    assert {section.plugin for section in sections if section.plugin} == {
        name for kind in CONTRACTS for name in plugins.names(kind)
    }


def test_what_is_listed_can_be_typed_as_it_stands():
    for section in meanings.sections():
        chosen = [section.name] if section.plugin else []
        plain = [setting for setting in section.settings if setting.default and "(" not in setting.default]
        typed = [f"{setting.name}={setting.default}" for setting in plain if setting.name != "data.world"]
        overrides.override(Config(), chosen + typed)


def test_a_type_a_default_and_a_meaning_by_hand():
    (samples,) = meanings.chosen("pool.samples")[0].settings
    assert (samples.name, samples.type, samples.default) == ("pool.samples", "a whole number", "4")
    assert samples.meaning == "K: episodes of one query"
    (high,) = meanings.chosen("clip")[0].settings[1:2]
    assert (high.name, high.type, high.default) == ("learner.loss.high", "a number", "0.28")
    act = next(setting for setting in meanings.chosen("guards")[0].settings if setting.name == "guards.act")
    assert act.meaning.startswith("stop: save and end")  # the comment above it
    assert meanings.typed((64, 256)) == "64,256" and meanings.typed(True) == "true" and meanings.typed(1.0) == "1.0"


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("pool", ["pool"]),
        ("rounds", [f"pool.rounds={name}" for name in plugins.names("rounds")]),
        ("foresee", ["pool.rule=foresee"]),
        ("rule=foresee", ["pool.rule=foresee"]),
        ("foresee.gamma", ["pool.rule=foresee"]),
        ("reward=f1", ["reward=f1"]),
        ("loss.tau_positive", ["learner.loss=sapo"]),
        ("samples", ["pool", "evaluation"]),
    ],
)
def test_a_section_a_kind_a_plug_in_or_a_setting_is_found(what, names):
    assert [section.name for section in meanings.chosen(what)] == names


def test_the_command_says_what_is_near_and_what_another_system_s_name_is(capsys):
    assert cli.main(["settings", "sampels"]) == 2
    assert "did you mean pool.samples?" in capsys.readouterr().err
    assert cli.main(["settings", "foo"]) == 2
    assert (
        capsys.readouterr().err == "error: there is no section, plug-in or setting 'foo'; `qr-jax settings` lists all\n"
    )
    assert cli.main(["settings", "rollout.n"]) == 2
    assert "it is pool.samples here" in capsys.readouterr().err
    assert cli.main(["settings", "pool", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["settings"][0]["name"] == "pool.queries"


def test_help_of_train_points_to_the_settings(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert "qr-jax settings" in capsys.readouterr().out


def test_a_plug_in_of_one_s_own_is_found_by_its_kind_and_place(tmp_path, monkeypatch):
    (tmp_path / "my_ideas.py").write_text(
        '"""Rule: mine."""\n\n\ndef mine(pool, outcome, *, keen: float = 0.5):  # unsaid\n    ...\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for what in ("rule=my_ideas.mine", "pool.rule=my_ideas.mine"):
        (section,) = meanings.chosen(what)
        (setting,) = section.settings
        told = (section.about, setting.name, setting.type, setting.default)
        assert told == ("Rule: mine.", "pool.rule.keen", "a number", "0.5")
    with pytest.raises(ValueError, match="one of your own is named with its kind, as rule=FILE.FUNCTION"):
        meanings.chosen("my_ideas.mine")
    with pytest.raises(ValueError, match="rule 'my_others.other' is not written in its file as a def"):
        (tmp_path / "my_others.py").write_text("def _made():\n    return lambda pool, outcome: None\nother = _made()\n")
        meanings.chosen("rule=my_others.other")
