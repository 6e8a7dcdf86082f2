"""Vertex AI's job service as a gRPC server over TLS on this machine, which the unpatched client takes for Google's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SERVICE = "google.cloud.aiplatform.v1.JobService"


def require_vertex() -> None:
    """A visible skip where the client or the certificates' maker is missing."""
    pytest.importorskip("trustme", reason="no trustme; pip install trustme")
    pytest.importorskip("google.cloud.aiplatform", reason="no google-cloud-aiplatform; pip install 'himari-rl[gcp]'")


@dataclass
class JobService:
    """Jobs in memory; what happens to calls is the test's to say."""

    jobs: dict[str, Any] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    lost_answers: int = 0
    """So many CreateCustomJob are carried out and answered with UNAVAILABLE."""
    refused: dict[str, str] = field(default_factory=dict)
    """Region -> name of the status that CreateCustomJob is answered with there."""
    fails: dict[str, str] = field(default_factory=dict)
    """Region -> message with which its jobs fail before they run."""
    stuck: set[str] = field(default_factory=set)
    """Regions whose jobs never leave the queue."""
    cancelled: str = "CANCELLED"
    """State of a job that was told to end; the real one goes on ending for a while."""
    list_errors: int = 0
    """So many ListCustomJobs are answered with UNAVAILABLE."""
    states: tuple[str, ...] = ("PENDING", "RUNNING", "SUCCEEDED")
    """Of a job, one for each look at it."""
    address: str = ""
    guard: threading.Lock = field(default_factory=threading.Lock)
    looks: dict[str, int] = field(default_factory=dict)

    def _state(self, name: str) -> Any:
        from google.cloud.aiplatform_v1.types import JobState

        return JobState[f"JOB_STATE_{name}"]

    def create_custom_job(self, asked: Any, context: Any) -> Any:
        import grpc

        region = asked.parent.split("/")[3]
        if region in self.refused:
            context.abort(getattr(grpc.StatusCode, self.refused[region]), f"made by the test in {region}")
        with self.guard:
            job = asked.custom_job
            job.name = f"{asked.parent}/customJobs/{len(self.jobs) + 1}"
            job.state = self._state("PENDING")
            self.jobs[job.name] = job
            lost, self.lost_answers = self.lost_answers > 0, max(0, self.lost_answers - 1)
        if lost:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        return job

    def list_custom_jobs(self, asked: Any, context: Any) -> Any:
        import grpc
        from google.cloud.aiplatform_v1.types import ListCustomJobsResponse

        if self.list_errors:
            self.list_errors -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "made by the test")
        key, _, value = asked.filter.removeprefix("labels.").partition("=")
        with self.guard:
            found = [
                job
                for name, job in self.jobs.items()
                if name.startswith(asked.parent) and job.labels.get(key) == value.strip('"')
            ]
        return ListCustomJobsResponse(custom_jobs=found)

    def get_custom_job(self, asked: Any, context: Any) -> Any:
        job, region = self.jobs[asked.name], asked.name.split("/")[3]
        if (
            job.state.name in ("JOB_STATE_CANCELLING", "JOB_STATE_CANCELLED", "JOB_STATE_FAILED")
            or region in self.stuck
        ):
            return job
        if region in self.fails:
            job.state, job.error = self._state("FAILED"), {"code": 8, "message": self.fails[region]}
            return job
        look = self.looks[asked.name] = self.looks.get(asked.name, 0) + 1
        job.state = self._state(self.states[min(look, len(self.states)) - 1])
        return job

    def cancel_custom_job(self, asked: Any, context: Any) -> Any:
        from google.protobuf.empty_pb2 import Empty

        self.jobs[asked.name].state = self._state(self.cancelled)
        return Empty()


def _handlers(service: JobService) -> Any:
    import grpc
    from google.cloud.aiplatform_v1.types import (
        CancelCustomJobRequest,
        CreateCustomJobRequest,
        CustomJob,
        GetCustomJobRequest,
        ListCustomJobsRequest,
        ListCustomJobsResponse,
    )
    from google.protobuf.empty_pb2 import Empty

    methods: dict[str, tuple[Callable[..., Any], Any, Any]] = {
        "CreateCustomJob": (service.create_custom_job, CreateCustomJobRequest, CustomJob),
        "ListCustomJobs": (service.list_custom_jobs, ListCustomJobsRequest, ListCustomJobsResponse),
        "GetCustomJob": (service.get_custom_job, GetCustomJobRequest, CustomJob),
        "CancelCustomJob": (service.cancel_custom_job, CancelCustomJobRequest, None),
    }

    def counted(name: str, behave: Callable[..., Any]) -> Callable[..., Any]:
        def answer(asked: Any, context: Any) -> Any:
            service.calls.append(name)
            return behave(asked, context)

        return answer

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                counted(name, behave),
                request_deserializer=asked.deserialize,
                response_serializer=answer.serialize if answer else Empty.SerializeToString,
            )
            for name, (behave, asked, answer) in methods.items()
        },
    )


@contextmanager
def job_service(folder: Path) -> Iterator[JobService]:
    """A running service; the root certificate is named before the first channel of this process."""
    require_vertex()
    import grpc
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    root = folder / "root.pem"
    authority.cert_pem.write_to_path(str(root))
    service = JobService()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((_handlers(service),))
    chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
    port = server.add_secure_port(
        "localhost:0", grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    )
    service.address = f"localhost:{port}"
    server.start()
    before = os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(root)
    try:
        yield service
    finally:
        server.stop(None).wait()
        if before is None:
            del os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]
        else:
            os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = before
