"""A bundle behind your own FastAPI: BUNDLE=runs/labels/bundle uvicorn bundle_in_fastapi:app.

`prooftune serve BUNDLE` has batching, limits, keys and metrics; this is for an app that you
already have.
"""

import os

from fastapi import FastAPI

import prooftune

app, model = FastAPI(), prooftune.load(os.environ["BUNDLE"])


@app.post("/label")
def label(texts: list[str]) -> list[dict[str, object]]:
    return [{"label": p.label, "probability": p.probability} for p in model.predict(texts)]
