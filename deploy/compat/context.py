"""`ts.context`: what a handler is told of its model and of the batch at hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from deploy.compat.metrics import MetricsStore


class Replies(Protocol):
    """What the service's own context of a batch offers; see deploy/service/context.py."""

    headers: Sequence[Mapping[str, Any]]

    def set_response_content_type(self, idx: int, value: str) -> None: ...

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None: ...

    def response_writer(self, idx: int) -> Callable[[bytes], None] | None: ...


class RequestProcessor:
    """One request's headers, and the status and headers of its answer."""

    def __init__(self, request_header: Mapping[str, Any]) -> None:
        self._request = dict(request_header)
        self._response: dict[str, str] = {}
        self._status = 200
        self._phrase: str | None = None

    def get_request_property(self, key: str) -> Any:
        """A header of the request, in any case, or a part's `{"content-type": ...}` by its name."""
        return self._request.get(key, self._request.get(key.lower()))

    def get_request_properties(self) -> dict[str, Any]:
        """All of them."""
        return self._request

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Set the answer's status."""
        self._status, self._phrase = code, reason_phrase

    def get_response_status_code(self) -> int:
        """The answer's status."""
        return self._status

    def get_response_status_phrase(self) -> str | None:
        """Its phrase, which is not sent: HTTP clients do without."""
        return self._phrase

    def add_response_property(self, key: str, value: str) -> None:
        """Set a header of the answer."""
        self._response[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """The answer's headers."""
        return self._response

    def get_response_header(self, key: str) -> str | None:
        """One of them."""
        return self._response.get(key)


class Context:
    """TorchServe's Context: one for the life of a handler, renewed for each batch by `begin`."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        batch_size: int | None,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self.metrics = metrics if metrics is not None else MetricsStore(model_name=model_name)
        self.model_yaml_config = {} if model_yaml_config is None else model_yaml_config
        self.request_ids: dict[int, str] | None = None
        self.request_processor: list[RequestProcessor] | None = None
        self.stopping_criteria: Any = None
        self.system_properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",  # handlers may compare it with TorchServe's
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self._replies: Replies | None = None

    def begin(self, replies: Replies, request_ids: dict[int, str]) -> None:
        """Take a batch's headers and ids; `replies` receives what the handler sets."""
        self._replies = replies
        self.request_ids = request_ids
        self.metrics.set_request_ids(request_ids)
        self.request_processor = [RequestProcessor(headers) for headers in replies.headers]

    def end(self) -> None:
        """Pass the statuses and content types that the handler set to the service."""
        assert self._replies is not None
        for index, processor in enumerate(self._processors()):
            kind = processor.get_response_header("content-type")
            if kind:
                self._replies.set_response_content_type(index, kind)
            self._replies.set_response_status(processor.get_response_status_code(), "", index)

    def response_writer(self, idx: int) -> Callable[[bytes], None] | None:
        """A function that sends a partial answer to a request's client, None if it takes none."""
        if self._replies is None:
            return None
        kind = self.get_response_content_type(idx)
        if kind:
            self._replies.set_response_content_type(idx, kind)
        return self._replies.response_writer(idx)

    def get_request_id(self, idx: int = 0) -> str | None:
        """The id of a request of the batch."""
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        """A header of a request, by its name in any case."""
        return self._processors()[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """All headers of a request."""
        return self._processors()[idx].get_request_properties()

    def get_sequence_id(self, idx: int) -> Any:
        """The sequence that a request belongs to, by its header `ts_request_sequence_id`."""
        return self.get_request_header(idx, "ts_request_sequence_id")

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of an answer."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """The content type that was set."""
        return self.get_response_headers(idx).get("content-type")

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of an answer; the service sends the content type alone."""
        self._processors()[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """The headers that were set."""
        return self._processors()[idx].get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the status of one answer."""
        if self.request_processor:
            self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of every answer of the batch."""
        for processor in self._processors():
            processor.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """The status and phrase that were set."""
        processor = self._processors()[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def _processors(self) -> list[RequestProcessor]:
        return self.request_processor or []
