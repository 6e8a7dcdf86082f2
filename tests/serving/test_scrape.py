"""The second port for a scraper: /metrics without a key, on this machine alone, and nothing else."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request

import pytest

from himari_rl.errors import ConfigError
from himari_rl.monitoring.metrics import Metrics
from himari_rl.serving.http.scrape import TYPE, scraped


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_it_gives_the_metrics_and_nothing_else() -> None:
    metrics = Metrics()
    metrics.answered(0.001)
    with scraped(metrics, free_port()) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["content-type"] == TYPE
            assert b"himari_requests_total 1.0" in answer.read()
        for path in ("/", "/predict", "/admin/reload"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}")
        with pytest.raises(ConfigError, match="a free port"), scraped(metrics, port):
            pass
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass
    with scraped(metrics, 0) as none:
        assert none == 0


def test_a_count_that_is_new_while_it_is_read_is_no_failure() -> None:
    metrics, over = Metrics(), threading.Event()

    def count() -> None:
        number = 0
        while not over.is_set():
            number += 1
            metrics.errors[(400 + number % 200, f"cause {number % 50}")] += 1
            if number % 100 == 0:
                metrics.errors.clear()

    worker = threading.Thread(target=count)
    worker.start()
    try:
        with scraped(metrics, free_port()) as port:
            for _ in range(20):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                    assert answer.status == 200
    finally:
        over.set()
        worker.join()
