import logging
import sys

import pytest

from octavo_operator import settings as module
from octavo_operator.__main__ import main
from octavo_operator.core.errors import SettingsError
from octavo_operator.core.manifest import Defaults
from octavo_operator.logs import LineFormatter, kv
from octavo_operator.settings import PrometheusServer, read_settings

GOOD = {"OCTAVO_RUNTIME_IMAGE": "example.invalid/runtime:1"}


@pytest.fixture
def logging_restored():
    """What the command does to the process's logging ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_defaults():
    settings = read_settings(GOOD)
    assert (settings.http_port, settings.scrape_period, settings.decide_period) == (8080, 2, 5)
    assert settings.watch_namespaces == ()
    assert settings.kubeconfig is None
    assert settings.lease_duration == 15
    assert settings.prometheus is None
    assert settings.defaults == Defaults(GOOD["OCTAVO_RUNTIME_IMAGE"], pod_monitors=True)


def test_only_a_pods_name_is_an_identity_that_a_second_process_may_share():
    assert read_settings(GOOD | {"POD_NAME": "p"}).identity == "p"
    assert read_settings(GOOD).identity != read_settings(GOOD).identity


def test_everything_can_be_set():
    settings = read_settings(
        GOOD
        | {
            "OCTAVO_WATCH_NAMESPACES": " a, b ,",
            "OCTAVO_HTTP_PORT": "9",
            "OCTAVO_SCRAPE_PERIOD": "0.5",
            "OCTAVO_WORKERS": "3",
            "OCTAVO_LOG_LEVEL": "debug",
            "POD_NAME": "pod-1",
            "POD_NAMESPACE": "ns",
            "OCTAVO_LEASE_NAME": "lease",
            "OCTAVO_LEASE_DURATION": "30",
            "OCTAVO_PROMETHEUS_NAMESPACE": "monitoring",
            "OCTAVO_PROMETHEUS_URL": "https://prom.monitoring:9090/prefix/",
            "OCTAVO_PROMETHEUS_AUTHORIZATION_FILE": "/a",
            "OCTAVO_PROMETHEUS_CA_FILE": "/c",
            "OCTAVO_POD_MONITORS": "False",
            "OCTAVO_POD_MONITOR_LABELS": "release=prom, team=ml",
            "OCTAVO_ACTIVATOR_IMAGE": " example.invalid/operator:1",
            "KUBECONFIG": "/k",
        }
    )
    assert settings.watch_namespaces == ("a", "b")
    assert settings.prometheus == PrometheusServer("https://prom.monitoring:9090/prefix", "/a", "/c")
    assert (settings.http_port, settings.scrape_period, settings.workers) == (9, 0.5, 3)
    assert (settings.log_level, settings.instance, settings.kubeconfig) == ("DEBUG", "pod-1", "/k")
    assert (settings.lease_namespace, settings.lease_name, settings.lease_duration) == ("ns", "lease", 30)
    labels = {"release": "prom", "team": "ml"}
    images = ("example.invalid/runtime:1", "example.invalid/operator:1")
    assert settings.defaults == Defaults(
        images[0], "ns", "monitoring", pod_monitors=False, pod_monitor_labels=labels, activator_image=images[1]
    )


def test_the_argument_outweighs_the_environment():
    assert read_settings(GOOD | {"KUBECONFIG": "/k"}, "/argument").kubeconfig == "/argument"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OCTAVO_RUNTIME_IMAGE", " "),
        ("OCTAVO_HTTP_PORT", "0"),
        ("OCTAVO_HTTP_PORT", "http"),
        ("OCTAVO_SCRAPE_PERIOD", "6"),
        ("OCTAVO_SCRAPE_PERIOD", "nan"),
        ("OCTAVO_WORKERS", "-1"),
        ("OCTAVO_LEASE_DURATION", "2"),
        ("OCTAVO_POD_MONITORS", "maybe"),
        ("OCTAVO_PROMETHEUS_URL", "prometheus:9090"),
        ("OCTAVO_PROMETHEUS_URL", "file:///etc/passwd"),
        ("OCTAVO_PROMETHEUS_URL", "http://prometheus:99999"),
        ("OCTAVO_PROMETHEUS_URL", "http://prometheus:0"),
        ("OCTAVO_PROMETHEUS_URL", "http://"),
        ("OCTAVO_PROMETHEUS_URL", "http://user:secret@prometheus"),
        ("OCTAVO_PROMETHEUS_URL", "http://prometheus?query=x"),
        ("OCTAVO_POD_MONITOR_LABELS", "release"),
        ("OCTAVO_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_value_is_named(name, value):
    with pytest.raises(SettingsError, match=name) as caught:
        read_settings(GOOD | {name: value})
    assert "secret" not in str(caught.value)


def test_the_docstring_lists_every_variable():
    source = module.__loader__.get_source(module.__name__)
    body = source.replace(module.__doc__, "")
    used = {
        word for line in body.splitlines() for word in line.split('"') if word.startswith("OCTAVO_") and " " not in word
    }
    assert used
    assert [name for name in used if name not in module.__doc__] == []


def test_the_command_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.delenv("OCTAVO_RUNTIME_IMAGE", raising=False)
    assert main(["run"]) == 64
    assert capsys.readouterr().err == "octavo-operator: OCTAVO_RUNTIME_IMAGE is not set: name the runtime's image\n"


def record(message, **pairs):
    entry = logging.LogRecord("x", logging.INFO, "f", 1, message, (), None)
    entry.__dict__.update(kv(**pairs))
    return entry


def test_a_log_line_is_one_line_with_pairs():
    line = LineFormatter().format(record("two\nlines", server="ns/a", error='said "no"', empty=""))
    assert line.endswith(r'INFO    two lines server=ns/a error="said \"no\"" empty=""')
    assert "\n" not in line


def test_a_traceback_stays_in_the_line():
    entry = record("crashed")
    try:
        int("boom")
    except ValueError:
        entry.exc_info = sys.exc_info()
    line = LineFormatter().format(entry)
    assert "\n" not in line
    assert "boom" in line


@pytest.mark.usefixtures("logging_restored")
def test_the_command_says_that_it_finds_no_cluster(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("OCTAVO_RUNTIME_IMAGE", "r:1")
    assert main(["run", "--kubeconfig", str(tmp_path / "none")]) == 64
    assert str(tmp_path / "none") in capsys.readouterr().err
