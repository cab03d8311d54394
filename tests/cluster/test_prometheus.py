"""The Prometheus that the tests run: it scrapes, its series are labelled as in a cluster, and it can be gone."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.errors import ClusterError
from cluster.processes import wait_until
from cluster.prometheus import Prometheus, Target


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'octavo_requests_waiting{model_name="m"} 3\n')

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_it_scrapes_with_the_labels_of_a_pod_monitor_and_keeps_its_data(tmp_path, address):
    with Prometheus(tmp_path).start() as prometheus:
        prometheus.scrape([Target("default", "chat-1", "chat", address)])
        assert wait_until(lambda: prometheus.query("octavo_requests_waiting"), 120)
        (series,) = prometheus.query("octavo_requests_waiting")
        assert series["value"][1] == "3"
        expected = {
            "namespace": "default",
            "pod": "chat-1",
            "container": "runtime",
            "octavo_dev_modelserver": "chat",
            "job": "default/chat",
            "endpoint": "http",
            "instance": address,
            "model_name": "m",
            "__name__": "octavo_requests_waiting",
        }
        assert series["metric"] == expected
        prometheus.stop()
        with pytest.raises(OSError, match="refused"):
            prometheus.query("up")
        prometheus.start()
        assert prometheus.query("count_over_time(octavo_requests_waiting[10m])")


def test_samples_of_the_past_are_taken_in(tmp_path):
    past = "# TYPE load gauge\nload 7 1700000000\n# EOF\n"
    with Prometheus(tmp_path).load(past).start() as prometheus:
        (series,) = prometheus.query("load", at=1700000001)
        assert series["value"][1] == "7"


def test_what_is_no_text_of_metrics_is_refused(tmp_path):
    with pytest.raises(ClusterError, match="promtool cannot read"):
        Prometheus(tmp_path).load("load seven\n")
