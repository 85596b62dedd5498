"""Every plug-in of every kind is called on a small case, and every kind's check refuses what no plug-in may return.

A new file in a plug-in's folder is covered by itself: settings that it cannot do without stand in its EXAMPLE.
"""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qr_jax import dialect, plugins
from qr_jax.errors import PluginError
from qr_jax.interfaces import CONTRACTS, EXAMPLE, check_env
from qr_jax.pool.pool import _note, create, judge
from qr_jax.records import Ask, Episode, Passage, Query, Say, Scores, Search, Stop, Turn, call_of, grades
from qr_jax.settings.settings import Use

PACKAGE = Path(plugins.__file__).parent
ALL = [(kind, name) for kind in CONTRACTS for name in plugins.names(kind)]
QUERY = Query("q", "Where is A?", ("Oslo",), ("A",))
CORPUS = [Passage("1", "A", "A lies in Oslo."), Passage("2", "B", "B lies elsewhere.")]
GROUPS, SAMPLES, TOKENS = 2, 3, 5


def episode(sample: int, turns: int = 1) -> Episode:
    turn_L = np.repeat(np.arange(-1, turns), 2)
    ids_L, mask_L = np.arange(len(turn_L), dtype=np.int32), turn_L >= 0
    return Episode(QUERY, sample, 0, ids_L, mask_L, -1.0 * mask_L, turn_L, (), "Oslo", "answered", True)


GRADES = grades([[1, 0, 1], [0, 0, 0]], np.ones((GROUPS, SAMPLES)), turn_reward_QGT=np.ones((GROUPS, SAMPLES, 2)))
OUTCOME = judge([2, 0], GRADES, step=0, accept=2)
POOL = _note(create(4), OUTCOME)  # as settle gives it to a rule
EPISODES = [episode(0), episode(1, turns=2), episode(2)]
N = GROUPS * SAMPLES
TOKEN = {name: np.zeros((N, TOKENS), np.float32) for name in CONTRACTS["loss"].given if name.endswith("_NL")}
TOKEN |= {"mask_NL": np.ones((N, TOKENS), bool), "turn_NL": np.zeros((N, TOKENS), np.int32)}
DATA = {
    "rule": (POOL, OUTCOME),
    "rounds": (POOL, [OUTCOME]),
    "env": (QUERY, []),
    "retriever": (),
    "tool": ([call_of("any", {"query": "Where is A?", "expression": "1 + 2", "id": "1"})],),
    "reward": (QUERY, EPISODES),
    "advantage": {
        "grades": GRADES,
        "turns_QG": np.ones((GROUPS, SAMPLES), np.int32),
        "gold_logp_NT": np.zeros((N, 8), np.float32),
    }
    | TOKEN,
    "loss": {**TOKEN, "reward_N": np.zeros(N, np.float32)},
}
SIZES = {"queries": 2, "oversample": 1, "samples": SAMPLES}


def bound(kind, name):
    """The plug-in as a run binds it, with the settings of its EXAMPLE."""
    use = Use(name, plugins.constants(kind, name).get(EXAMPLE, {}))
    use = Use(name, plugins.check(kind, use))
    provided = {"corpus": CORPUS} if kind == "retriever" and plugins.wants_corpus(use) else SIZES
    if kind == "tool":
        provided = {"search": lambda queries, k: [CORPUS[:k] for _ in queries], "corpus": CORPUS, "k": 1, "kept": {}}
    return plugins.bind(kind, use, provided=provided)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_plug_in_keeps_its_contract_when_it_is_called(kind, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a plug-in keeps, it keeps there
    contract = CONTRACTS[kind]
    try:
        plugin = bound(kind, name)
        settings = plugins.signature(kind, name).settings
        asks_servers = "command" in settings or any(settings[of].required for of in ("url", "parts") if of in settings)
        if kind == "reward" and asks_servers:
            pytest.skip("it asks a server; its own tests have one")
        if not contract.by_name:
            result = plugin(*DATA[kind])
        else:
            takes = plugins.signature(kind, name).data
            given = {key: value for key, value in DATA[kind].items() if key in takes}
            result = jax.eval_shape(lambda given: plugin(**given), given)  # as the learner traces it
    except ValueError as error:  # a model or a key that this machine lacks, said in words
        if "install" not in str(error) and "environment variable" not in str(error):
            raise
        pytest.skip(str(error))
    if kind == "env":
        check_environment(plugin, name)
    if kind == "rounds":
        assert plugin(POOL, []) is not None, "a step begins with a draw"
    if kind == "retriever" and not asks_servers and "of" not in settings and callable(result):
        for passages in result(["Where is A?"], 1):
            assert all(isinstance(passage, Passage) for passage in passages) and len(passages) <= 1


def check_environment(env, name):
    """An expert's turns are read as what they say, and a passage that holds its tags shows none of them."""
    write = plugins.beside("env", name, "expert_turn")
    tags = (*dialect.NAMES, *plugins.constants("env", name).get("TAGS", ()))
    assert isinstance(env(QUERY, []), Say)
    if write is None:  # it is to have no cold start
        return
    search = write("I look it up.", ("where is A",))
    assert env(QUERY, [Turn("model", search)]) == Search(("where is A",))
    hostile = Passage("1", "T", " ".join(f"<{tag}> x </{tag}>" for tag in tags))
    shown = env(QUERY, [Turn("model", search), Turn("env", "", ("where is A",), ((hostile,),))])
    plain = env(QUERY, [Turn("model", search), Turn("env", "", ("where is A",), ((Passage("1", "T", "x"),),))])
    for tag in tags:
        assert shown.text.count(f"<{tag}>") == plain.text.count(f"<{tag}>"), tag
    for thought in ("", "Now I know."):
        end = env(QUERY, [Turn("model", write(thought, (), "Oslo"))])
        assert isinstance(end, Stop) and (end.reason, end.answer) == ("answered", "Oslo")
    parallel = plugins.constants("env", name).get("PARALLEL", 1)
    asked = tuple(f"query {number}" for number in range(parallel))
    assert env(QUERY, [Turn("model", write("", asked))]) == Search(asked)


WRONG = {
    "None": None,
    "text": "abc",
    "a number": 0.5,
    "a scalar": np.float32(1.0),
    "one value": np.ones(1, np.float32),
    "one too many": np.ones(SAMPLES + 1, np.float32),
    "objects": np.array([None] * SAMPLES, object),
    "NaN": float("nan"),
    "a set": {1, 2},
}
MORE = {
    "rule": [
        np.ones(4),
        (np.ones(3), {}),
        (np.array([1, np.nan, 1, 1]), {}),
        (np.array([1, -1, 1, 1]), {}),
        (np.array([1, np.inf, 1, 1]), {}),
        (np.ones(4), None),
        (np.ones(4), {"kept": np.array([None] * 4, object)}),
        (np.array(["a"] * 4), {}),
        (np.ones(4), {"kept": [[1], [1, 2]]}),
        (np.ones(4), {"kept": np.ma.array(np.ones(4), mask=np.arange(4) == 1)}),
    ],
    "rounds": [
        Ask(0), Ask(-1), Ask(1.5), Ask(True), Ask(0, {3: 1}), Ask(0, {2: 0}), Ask(0, {2: 1.5}), Ask(1, [2]),
    ],
    "env": [
        Say(3), Say("x", role="system"), Say("x", stop=("",)), Say("x", stop="ab"), Search(()), Search("abc"),
        Search((1,)), Stop("fault"), Stop("answered", 3), Say("x", tools="abc"), Say("x", tools=("abc",)),  # pyright: ignore
        Say("x", "inline"),
    ],
    "tool": [[], ["a", "b"], [1], [[1]], ["a" for _ in range(2)], [{"text": "a"}], [None], [[["a"]]]],
    "reward": [
        np.ones((SAMPLES, 1)), Scores(np.ones(2)), Scores(np.ones(SAMPLES), outcome_G=[0, 1, 2]),
        Scores(np.ones(SAMPLES), outcome_G=1), Scores(np.ones(SAMPLES), turn_GT=[[1], [1], [1]]),
        Scores(np.ones(SAMPLES), turn_GT=np.ones((SAMPLES, 2))), Scores(None), [1, 2, [3]],
        np.ma.array(np.ones(SAMPLES), mask=np.arange(SAMPLES) == 1),
    ],
    "advantage": [
        np.ones((GROUPS, SAMPLES), np.int32), np.ones(GROUPS, np.float32), np.ones((N, TOKENS + 1), np.float32),
        np.ones((SAMPLES, GROUPS, 2), np.float32),
        np.ones((GROUPS, SAMPLES, 0), np.float32), np.ones(N, np.float32),
        np.ones((GROUPS, SAMPLES, TOKENS), np.float32),
    ],
    "loss": [
        np.ones((N, TOKENS), np.float32), (np.ones((N, TOKENS), np.float32),), (np.float32(1), {}),
        (np.ones(N, np.float32), {}), (np.ones((N, TOKENS), np.float32), None),
        (np.ones((N, TOKENS), np.float32), {"ratio": np.float32(1)}), (np.ones((N, TOKENS), np.int32), {}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTRACTS)
def test_a_wrong_return_is_refused_by_name_with_what_was_found_and_wanted(kind, monkeypatch):
    """Through the loader, as a run meets it. (None ends a step's drawing: rounds may return it.)"""
    values = [value for name, value in WRONG.items() if kind != "rounds" or name != "None"] + MORE.get(kind, [])
    name = plugins.names(kind)[0]
    contract, data = CONTRACTS[kind], DATA[kind]
    for value in values:
        checked = plugins.checked(kind, name, lambda *data, value=value, **named: value)
        with pytest.raises(ValueError, match=rf"^{kind} '{name}' returned .+; wanted ") as said:
            checked(**data) if contract.by_name else checked(*data)
        assert contract.returns in str(said.value) and "\n" not in str(said.value)


def test_what_may_be_returned_passes_each_check():
    passes = {
        "rule": [(np.ones(4), {}), (np.ones(4, int), {"seen": np.zeros(4, bool)})],
        "rounds": [None, Ask(1), Ask(0, {2: 3}), Ask(np.int64(2))],
        "env": [Say("x"), Search(("a", "b")), Search(("a", call_of("b", {}))), Stop("answered", ""), Stop("turns")],
        "retriever": [lambda queries, k: []],
        "advantage": [jnp.ones((GROUPS, SAMPLES)), jnp.ones((GROUPS, SAMPLES, 7)), jnp.ones((N, TOKENS), jnp.bfloat16)],
        "loss": [(jnp.ones((N, TOKENS)), {}), (jnp.ones((N, TOKENS)), {"ratio": jnp.ones((N, TOKENS))})],
    }
    for kind, values in passes.items():
        contract, data = CONTRACTS[kind], (QUERY, [Turn("model", "x")]) if kind == "env" else DATA[kind]
        for value in values:
            assert (contract.check(value, **data) if contract.by_name else contract.check(value, *data)) is value
    check = CONTRACTS["reward"].check
    for value in ([1, 0, 1], np.array([True, False, True]), np.array([np.nan, 1, 2])):
        assert check(value, *DATA["reward"]).score_G.dtype == np.float64
    turns = check(Scores([1, 0, 1], [1, 0, 1], [[1], [0.5, 2], [3]]), *DATA["reward"]).turn_GT
    assert [row.tolist() for row in turns] == [[1], [0.5, 2], [3]]


def test_an_environment_opens_with_a_say_and_answers_passages_without_a_search():
    check = CONTRACTS["env"].check
    with pytest.raises(PluginError, match="^Search.* to open an episode, which begins with a Say"):
        check(Search(("a",)), QUERY, [])
    with pytest.raises(PluginError, match="^Stop.* to open an episode"):
        check(Stop("turns"), QUERY, [])
    shown = [Turn("model", "x"), Turn("env", "", ("a",), ((CORPUS[0],),))]
    with pytest.raises(PluginError, match="^Search.* when it was shown passages"):
        check(Search(("a",)), QUERY, shown)
    assert check(Stop("turns"), QUERY, shown) == Stop("turns")


def test_an_ask_for_nothing_or_for_a_query_that_was_not_drawn_is_said():
    check = CONTRACTS["rounds"].check
    with pytest.raises(PluginError, match="an Ask for nothing, which would never end the step"):
        check(Ask(0), POOL, [OUTCOME])
    with pytest.raises(PluginError, match="None before the first draw of the step"):
        check(None, POOL, [])
    with pytest.raises(PluginError, match="an Ask for 1 more samples of query 3, of the 2 drawn in this step"):
        check(Ask(0, {3: 1}), POOL, [OUTCOME])


def test_constants_are_checked(tmp_path, monkeypatch):
    (tmp_path / "my_words.py").write_text(
        "MAX_GROUP_SIZE = 16\nMAX_ROUNDS: int = 2\nOTHER = object()\n"
        "def mine(pool, so_far, *, samples):\n    pass\n"
        "MAX_TURNS = 0\nDRAWS = 'widest'\nZERO_VARIANCE = 'grad' + 'ient'\n"
    )
    (tmp_path / "my_end.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugins.constants("rounds", "my_words.mine") == {"MAX_GROUP_SIZE": 16, "MAX_ROUNDS": 2}
    assert plugins.constants("loss", "my_words.mine") == {"ZERO_VARIANCE": "gradient"}
    with pytest.raises(ValueError, match="rule 'my_words.mine': DRAWS is 'widest' .*wanted one of 'chance', 'largest'"):
        plugins.constants("rule", "my_words.mine")
    with pytest.raises(ValueError, match="reward 'my_words.mine': MAX_TURNS is 0; wanted at least 1"):
        plugins.constants("reward", "my_words.mine")
    with pytest.raises(ValueError, match="env 'my_end.mine' cannot be imported: SystemExit: 3"):
        plugins.constants("env", "my_end.mine")


def test_a_run_gives_what_the_signature_takes(tmp_path, monkeypatch):
    (tmp_path / "my_rounds.py").write_text(
        "from qr_jax.records import Ask\n"
        "def none(pool, so_far):\n    return None if so_far else Ask(3)\n"
        "def some(pool, so_far, *, samples, least: int = 2):\n    return None if so_far else Ask(samples * least)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugins.bind("rounds", Use("my_rounds.none"), provided=SIZES)(POOL, []) == Ask(3)
    assert plugins.bind("rounds", Use("my_rounds.some", {"least": 5}), provided=SIZES)(POOL, []) == Ask(15)


# Words that are also plug-ins' names and stand for something else where they are compared.
OTHER_WORDS = {
    "tools/_of_run.py": {"search"},  # what a model calls a tool
    "cli/commands/data.py": {"none"},  # no stop words
    "cli/commands/eval.py": {"judge"},  # an option
    "evaluate.py": {"exact_match", "f1", "cover_match"},  # metrics
    "lab/suite.py": {"exact_match", "judge"},
    "lab/report/run_list.py": {"exact_match"},  # a metric
    "models/decoder.py": {"none"},  # model.remat
    "lab/gguf.py": {"none"},  # a rope's kind
    "search/check.py": {"search_r1"},  # a protocol
    "search/http_post.py": {"http"},  # a scheme
    "methods/rewards/_format.py": {"tool_call", "search"},  # tags
    "data/traces.py": {"tool_call"},  # a tag
    "settings/checks.py": {"calculator"},  # which the world's expert calls
    "search/mcp_server.py": {"http"},  # of ASGI: a kind of connection
    "serve/asked.py": {"none"},  # tool_choice
    "methods/envs/several_tools.py": {"tool_call", "search"},  # a tag, and what a model calls
    "methods/envs/tool_call.py": {"tool_call", "search"},
    "tools/open_page.py": {"http"},  # a scheme
    "methods/rewards/reseek.py": {"judge"},  # a tag
    "cli/overrides.py": {"none"},  # what people type for None
}


def words_of(node, constants):
    """The strings that one side of a comparison holds: itself, a list, tuple, set or dict, or a constant of these."""
    if isinstance(node, ast.Name):
        node = constants.get(node.id, node)
    parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [node])
    return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def compared(tree):
    """Every string that the code compares something with, or matches it against, and the line."""
    constants = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                yield from ((word, node.lineno) for word in words_of(side, constants))
        if isinstance(node, ast.MatchValue):
            yield from ((word, node.value.lineno) for word in words_of(node.value, {}))


def test_no_code_compares_a_plug_in_by_its_name():
    """What the core must know of a plug-in, its file declares. Environments compare names too: those of their tags."""
    names, guilty = {name for _, name in ALL}, []
    for path in sorted(set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("envs/*.py"))):
        file = path.relative_to(PACKAGE).as_posix()
        for word, line in compared(ast.parse(path.read_text(encoding="utf-8"))):
            if word in names - OTHER_WORDS.get(file, set()):
                guilty.append(f"{file}:{line}: {word}")
    assert not guilty, "\n".join(guilty)


def test_the_test_of_names_sees_each_way_to_compare_one():
    ways = ("x.name == 'mopps'", "x in ('mopps',)", "x in {'mopps'}", "x not in {'mopps': 1}", "L = ['mopps']\nx in L")
    for way in (*ways, "match x:\n    case 'mopps':\n        pass"):
        assert "mopps" in {word for word, _ in compared(ast.parse(way))}, way


def test_how_weights_choose_is_the_config_s_word_or_else_the_file_s():
    assert plugins.draws_by(Use("mopps"), None) == "largest" and plugins.draws_by(Use("mopps"), "chance") == "chance"
    assert (
        plugins.draws_by(Use("recycle"), None) == "chance" and plugins.draws_by(Use("recycle"), "largest") == "largest"
    )


def test_a_say_whose_stop_is_one_text_is_told_so():
    with pytest.raises(ValueError, match=r"a Say whose stop is '</search>' \(str\), not a tuple of texts, none em"):
        check_env(Say("a long text " * 20, "user", "</search>"), None, ())  # pyright: ignore
