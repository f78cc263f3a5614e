"""What `seresnet serve` is compared with: LitServe, and FastAPI without batching, each on the same classifier.

    python benchmarks/serve_peers.py fastapi|litserve MODEL PORT

LitServe is no dependency: `pip install --target DIR litserve`, and DIR on PYTHONPATH.
"""

import base64
import sys

import seresnet


def fastapi(model: str, port: int) -> None:
    """One call of the classifier for each request, in FastAPI's threads: what most tutorials show."""
    import uvicorn
    from fastapi import FastAPI, Request
    from starlette.concurrency import run_in_threadpool

    clf, app = seresnet.load(model, device="cpu"), FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict:
        return (await run_in_threadpool(clf.predict, await request.body(), 5, 1, 0))[0].to_dict()

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def litserve(model: str, port: int) -> None:
    """LitServe with dynamic batching."""
    api = Api(model, max_batch_size=16, batch_timeout=0.002)
    server = ls.LitServer(api, accelerator="cpu", timeout=30)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)


try:
    import litserve as ls
except ModuleNotFoundError:
    ls = None
else:

    class Api(ls.LitAPI):
        def __init__(self, model: str, **settings: float) -> None:
            super().__init__(**settings)
            self.model = model

        def setup(self, device: str) -> None:
            self.clf = seresnet.load(self.model, device="cpu")

        def decode_request(self, request: dict) -> bytes:  # JSON or a form: it takes no raw body
            return base64.b64decode(request["image"])

        def predict(self, batch: list[bytes]) -> list[dict]:
            return [prediction.to_dict() for prediction in self.clf.predict(batch)]

        def batch(self, inputs: list[bytes]) -> list[bytes]:
            return inputs

        def unbatch(self, output: list[dict]) -> list[dict]:
            return output

        def encode_response(self, output: dict) -> dict:
            return output


if __name__ == "__main__":
    {"fastapi": fastapi, "litserve": litserve}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
