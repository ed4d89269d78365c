"""From defaults, file, environment and command line to one configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.config import EngineConfig
from lightmem_engine.config_loader import default_data_dir, load, markdown_table, options, shown
from lightmem_engine.errors import ConfigError

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- options -->", "<!-- /options -->"


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "memory.toml"
    path.write_text(text)
    return path


def test_nothing_given_is_the_default() -> None:
    loaded = load(env={})
    assert loaded.config == EngineConfig()
    assert {loaded.source(option.path) for option in options()} == {"default"}
    assert all(loaded.value(option.path) == option.default for option in options())


def test_file_then_environment_then_settings(tmp_path: Path) -> None:
    file = _file(tmp_path, 'data_dir = "f"\n[compress]\nrate = 0.1\n[server]\nport = 1\nhost = "f"\n')
    env = {"LIGHTMEM_COMPRESS__RATE": "0.2", "LIGHTMEM_SERVER__PORT": "2", "PATH": "/bin"}
    loaded = load(file, env, ["server.port=3"])
    config = loaded.config
    assert (config.data_dir, config.server.host, config.compress.rate, config.server.port) == ("f", "f", 0.2, 3)
    assert loaded.source("data_dir") == f"file {file}"
    assert loaded.source("compress.rate") == "environment LIGHTMEM_COMPRESS__RATE"
    assert loaded.source("server.port") == "--set server.port"
    assert loaded.source("device.kind") == "default"


def test_the_last_setting_wins_and_may_hold_an_equals_sign() -> None:
    config = load(env={}, settings=["lm.url=http://a", "lm.url=http://b/v1?x=y"]).config
    assert config.lm.url == "http://b/v1?x=y"


VALUES: list[tuple[str, str, str, Any]] = [
    ("compress.rate", "0.5", "0.5", 0.5),
    ("compress.rate", "1", "1", 1.0),
    ("server.port", "8123", "8123", 8123),
    ("embedder.stub", "true", "yes", True),
    ("embedder.stub", "false", "0", False),
    ("embedder.stub", "true", "TRUE", True),
    ("embedder.model", '"a/b"', "a/b", "a/b"),
    ("device.kind", '"cpu"', "cpu", "cpu"),
    ("classifier.layers", "[3, 4]", "3, 4", (3, 4)),
    ("classifier.layers", "[]", "", ()),
    ("compress.protect", '["names"]', "names", ("names",)),
]


@pytest.mark.parametrize(("path", "toml", "text", "value"), VALUES)
def test_every_type_from_every_source(tmp_path: Path, path: str, toml: str, text: str, value: Any) -> None:
    section, name = path.split(".")
    from_file = load(_file(tmp_path, f"[{section}]\n{name} = {toml}\n"), env={})
    from_env = load(env={f"LIGHTMEM_{section.upper()}__{name.upper()}": text})
    from_setting = load(env={}, settings=[f"{path}={text}"])
    for loaded in (from_file, from_env, from_setting):
        assert loaded.value(path) == value
        assert type(loaded.value(path)) is type(value)


@pytest.mark.parametrize(
    ("setting", "nearest"),
    [
        ("compres.rate=1", "compress.rate"),
        ("compress.rates=1", "compress.rate"),
        ("index_strategy=context", "search.index_strategy"),
        ("lm.uri=x", "lm.url"),
        ("short_term.treshold=1", "short_term.threshold"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(tmp_path: Path, setting: str, nearest: str) -> None:
    name, _, value = setting.partition("=")
    with pytest.raises(ConfigError, match=f"^--set {name}: unknown option '{name}'; did you mean '{nearest}'"):
        load(env={}, settings=[setting])
    with pytest.raises(ConfigError, match=f"did you mean '{nearest}'"):
        load(env={f"LIGHTMEM_{name.upper().replace('.', '__')}": value})
    with pytest.raises(ConfigError, match=f"^file .*memory.toml: unknown option .*did you mean '{nearest}'"):
        load(_file(tmp_path, f'{name} = "{value}"\n'), env={})


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'qqqq'$"):
        load(env={}, settings=["qqqq=1"])


@pytest.mark.parametrize(
    "bad",
    [
        "server.port=many",
        "server.port=1.5",
        "compress.rate=half",
        "embedder.stub=maybe",
        "device.kind=tpu",
        "classifier.layers=a,b",
    ],
)
def test_a_bad_value_names_its_source_and_what_is_expected(bad: str) -> None:
    path, _, value = bad.partition("=")
    with pytest.raises(ConfigError, match=f"^--set {path}: {path} = '{value}': expected "):
        load(env={}, settings=[bad])
    name = f"LIGHTMEM_{path.upper().replace('.', '__')}"
    with pytest.raises(ConfigError, match=f"^environment {name}: "):
        load(env={name: value})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[server]\nport = true\n", "server.port = True: expected int"),
        ("[server]\nport = 1.5\n", "server.port = 1.5: expected int"),
        ("[server]\nhost = 7\n", "server.host = 7: expected str"),
        ("[server]\nport = [1]\n", "server.port"),
        ("[classifier]\nlayers = 3\n", "classifier.layers"),
        ("server = 3\n", "unknown option 'server'"),
        ("[server.port]\nx = 1\n", "server.port"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_bad_file_says_where(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        load(_file(tmp_path, text), env={})
    assert "memory.toml" in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "absent.toml", env={})
    (tmp_path / "latin.toml").write_bytes(b"data_dir = '\xff'")
    with pytest.raises(ConfigError, match=r"latin\.toml"):
        load(tmp_path / "latin.toml", env={})


def test_a_setting_without_a_value() -> None:
    with pytest.raises(ConfigError, match="expected path=value"):
        load(env={}, settings=["server.port"])


def test_an_impossible_value_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"compress\.rate must be"):
        load(env={"LIGHTMEM_COMPRESS__RATE": "7"})


def test_a_bad_secret_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(_file(tmp_path, "[lm]\napi_key = 12345\n"), env={})
    assert "12345" not in str(caught.value)


def test_secrets_are_masked_where_they_are_shown() -> None:
    secrets = [option for option in options() if option.secret]
    assert {secret.path for secret in secrets} == {"lm.api_key", "upstream.api_key"}
    for secret in secrets:
        assert (shown(secret, "sk-hidden"), shown(secret, "")) == ("***", "")
    for variable in ("LIGHTMEM_LM__API_KEY", "LIGHTMEM_UPSTREAM__API_KEY"):
        assert "sk-hidden" not in repr(load(env={variable: "sk-hidden"}))


def test_variables_that_are_not_options_are_let_be() -> None:
    assert load(env={"LIGHTMEM_KERNELS": "reference", "LIGHTMEMX": "1"}).config == EngineConfig()


def test_the_data_directory_follows_xdg() -> None:
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/data/lightmem-engine")
    assert default_data_dir({}) == Path.home() / ".local" / "share" / "lightmem-engine"
    assert load(env={"LIGHTMEM_DATA_DIR": "/memory"}).config.data_dir == "/memory"


def test_the_table_holds_every_option_once() -> None:
    rows = markdown_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [option.path for option in options()]
    assert all(row.startswith("| `") and row.endswith(" |") for row in rows)


@pytest.mark.skipif(not README.exists(), reason="there is no README.md in this tree")
def test_the_readme_shows_the_generated_table() -> None:
    text = README.read_text(encoding="utf-8")
    assert BEGIN in text, "README.md has no block of options"
    block = text.split(BEGIN)[1].split(END)[0]
    assert block.strip() == markdown_table(), "run `lightmem-engine config --markdown`"
