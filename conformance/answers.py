"""Write expected/drawn_weights.npz: what onnxruntime answers to the models whose weights were left out, drawn ones in.

    python -m conformance.answers

See `conformance.judge`.
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from conformance import run_main
from conformance.cases import case_model, data_sets, load_cases
from conformance.judge import FILE, drawn, left_out


def main() -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # of every shape that is no longer used it warns
    answers = {}
    for name, (_, case) in sorted(load_cases().items()):
        model = case_model(case)
        if left_out(model):
            [(inputs, _)] = data_sets(case, model)
            session = onnxruntime.InferenceSession(drawn(model).SerializeToString(), options)
            feeds = dict(zip([i.name for i in session.get_inputs()], inputs, strict=True))
            [answers[name]] = session.run(None, feeds)
    np.savez_compressed(FILE, **answers)


if __name__ == "__main__":
    run_main(main)
