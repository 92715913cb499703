"""BentoML: bentoml serve benchmarks.serve.peers.bentoml_app:Model; POST /predict, a form."""

from pathlib import Path

import bentoml

from benchmarks.serve.application import BATCH, Application


@bentoml.service(workers=2, resources={"cpu": "2"}, traffic={"timeout": 60})  # type: ignore[untyped-decorator]
class Model:
    """Files to the handler's JSON, in batches whose wait BentoML adapts."""

    def __init__(self) -> None:
        self.application = Application()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=1000)  # type: ignore[untyped-decorator]
    def predict(self, content: list[Path]) -> list[str]:
        """One answer for each file."""
        return [
            answer.decode()
            for answer in self.application.answers([path.read_bytes() for path in content])
        ]
