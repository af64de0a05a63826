"""Arguments of the wrong kind: the class of the error is the same on onnxruntime, and what fits goes on working."""

import threading
import warnings

import numpy as np
import pytest

import ortlite
from tests.api.test_session_api import X, make

ADDRESS = X.ctypes.data


def bound(ort, source):
    session = make(ort, source)
    return session, session.io_binding()


BINDINGS = {
    "output: a number as name": (lambda b, ort: b.bind_output(1), TypeError),
    "output: None as name": (lambda b, ort: b.bind_output(None), TypeError),
    "output: the address 0": (lambda b, ort: b.bind_output("Y", "cpu", 0, np.float32, [3, 2], 0), RuntimeError),
    "output: a float as address": (lambda b, ort: b.bind_output("Y", "cpu", 0, np.float32, [3, 2], 1.5), TypeError),
    "output: text as address": (lambda b, ort: b.bind_output("Y", "cpu", 0, np.float32, [3, 2], "a"), TypeError),
    "output: text as device": (lambda b, ort: b.bind_output("Y", "cpu", "a"), TypeError),
    "output: a number as kind of device": (lambda b, ort: b.bind_output("Y", 1), TypeError),
    "input: a number as name": (lambda b, ort: b.bind_cpu_input(1, X), TypeError),
    "input: text as size": (lambda b, ort: b.bind_input("X", "cpu", 0, np.float32, ["a"], ADDRESS), TypeError),
    "input: a negative size": (lambda b, ort: b.bind_input("X", "cpu", 0, np.float32, [-3, 2], ADDRESS), RuntimeError),
    "value: a number as name": (
        lambda b, ort: b.bind_ortvalue_output(1, ort.OrtValue.ortvalue_from_numpy(X)),
        TypeError,
    ),
}
OPTIONS = {
    "provider without options": (lambda s, ort: s.add_provider("CPUExecutionProvider"), TypeError),
    "provider with numbers": (lambda s, ort: s.add_provider("CPUExecutionProvider", {"a": 1}), TypeError),
    "unknown provider": (lambda s, ort: s.add_provider("nope", {}), RuntimeError),
    "no devices": (lambda s, ort: s.add_provider_for_devices([1], {}), TypeError),
    "devices without options": (lambda s, ort: s.add_provider_for_devices(ort.get_ep_devices()[:1]), TypeError),
    "initializer with a number as name": (lambda s, ort: s.add_initializer(1, "a"), TypeError),
    "entry with a number": (lambda s, ort: s.get_session_config_entry(1), TypeError),
    "names that are a str": (
        lambda s, ort: s.add_external_initializers("W", [ort.OrtValue.ortvalue_from_numpy(X)]),
        TypeError,
    ),
    "initializers that are arrays": (lambda s, ort: s.add_external_initializers(["W"], [X]), AttributeError),
    "a file of -1 bytes": (
        lambda s, ort: s.add_external_initializers_from_files_in_memory(["f"], [b"abc"], [-1]),
        TypeError,
    ),
    "a file twice": (
        lambda s, ort: s.add_external_initializers_from_files_in_memory(["f", "f"], [b"a", b"a"], [1, 1]),
        RuntimeError,
    ),
    "a flag that is text": (lambda s, ort: s.set_load_cancellation_flag("a"), TypeError),
    "a reader that is no function": (lambda s, ort: s.set_ep_context_data_read_func(1, 1), TypeError),
    "a delegate that is no function": (lambda s, ort: s.set_provider_selection_policy_delegate(1), TypeError),
    "an arena of one number": (lambda s, ort: ort.OrtArenaCfg(1), TypeError),
    "an arena of text": (lambda s, ort: ort.OrtArenaCfg({"max_mem": "a"}), RuntimeError),
    "copies of nothing": (lambda s, ort: ort.copy_tensors([], []), RuntimeError),
    "threads that are text": (lambda s, ort: ort.set_global_thread_pool_sizes("a"), TypeError),
    "a library's number": (lambda s, ort: ort.unregister_execution_provider_library(1), TypeError),
    "complex elements": (
        lambda s, ort: ort.OrtValue.ortvalue_from_shape_and_type([2], np.complex64),
        RuntimeError,
    ),
    "2 ** 124 elements": (
        lambda s, ort: ort.OrtValue.ortvalue_from_shape_and_type([2**62, 2**62], np.float32),
        RuntimeError,
    ),
    "a device of a number": (lambda s, ort: ort.OrtDevice.make(0, 0), TypeError),
    "memory of a number": (lambda s, ort: ort.get_ep_devices()[0].memory_info(0), TypeError),
    "sparse values in a list": (
        lambda s, ort: ort.SparseTensor.sparse_coo_from_numpy([6], [1.0], np.array([0]), ort.OrtDevice.make("cpu", 0)),
        TypeError,
    ),
    "sparse values with two axes": (
        lambda s, ort: ort.SparseTensor.sparse_coo_from_numpy(
            [6], np.ones((1, 1), np.float32), np.array([0]), ort.OrtDevice.make("cpu", 0)
        ),
        RuntimeError,
    ),
}
SESSIONS = {
    "tuning results without a provider": (lambda q, ort: q.set_tuning_results([{}]), KeyError),
    "tuning results that are none": (lambda q, ort: q.set_tuning_results(None), TypeError),
    "invalid tuning results": (
        lambda q, ort: q.set_tuning_results(
            [{"ep": "CPUExecutionProvider", "validators": {}, "results": {}}], error_on_invalid=True
        ),
        RuntimeError,
    ),
    "no dynamic options": (lambda q, ort: q.set_ep_dynamic_options({}), RuntimeError),
    "dynamic options that are none": (lambda q, ort: q.set_ep_dynamic_options(None), TypeError),
    "a graph of a name": (lambda q, ort: q.release_captured_graph("a"), TypeError),
    "no list of names": (lambda q, ort: q._sess.run(None, {"X": X}, None), TypeError),
    "names from an iterator": (lambda q, ort: q.run(iter(["Y"]), {"X": X}), TypeError),
    "async: a float": (lambda q, ort: q.run_async(None, {"X": 1.5}, print, 1), RuntimeError),
    "async: a tuple": (lambda q, ort: q.run_async(None, {"X": (1, 2)}, print, 1), RuntimeError),
    "async: complex numbers": (lambda q, ort: q.run_async(None, {"X": X.astype(complex)}, print, 1), RuntimeError),
    "async: run options": (lambda q, ort: q.run_async(None, {"X": X}, print, 1, 1), RuntimeError),
}


@pytest.mark.parametrize("case", BINDINGS)
def test_bindings(ort, mul, case):
    act, error = BINDINGS[case]
    _, binding = bound(ort, mul)
    with pytest.raises(error):
        act(binding, ort)


@pytest.mark.parametrize("case", OPTIONS)
def test_options_and_values(ort, case):
    act, error = OPTIONS[case]
    with pytest.raises(error):
        act(ort.SessionOptions(), ort)


@pytest.mark.parametrize("case", SESSIONS)
def test_sessions(ort, mul, case):
    act, error = SESSIONS[case]
    with pytest.raises(error):
        act(make(ort, mul), ort)


@pytest.mark.parametrize(("key", "value"), [("gpu_graph_id", "a"), ("memory.enable_memory_arena_shrinkage", "nope")])
def test_entries_of_runs(ort, C, mul, key, value):
    options = ort.RunOptions()
    options.add_run_config_entry(key, value)
    with pytest.raises(C.InvalidArgument):
        make(ort, mul).run(None, {"X": X}, options)


def test_no_outputs_by_inner_name(ort, C, mul):
    with pytest.raises(C.InvalidArgument):
        make(ort, mul)._sess.run([], {"X": X}, None)


def test_bytes_are_names(ort, mul):
    session, binding = bound(ort, mul)
    (expected,) = session.run(["Y"], {"X": X})
    assert (session.run([b"Y"], {"X": X})[0] == expected).all()
    binding.bind_cpu_input("X", X)
    binding.bind_output(b"Y")
    session.run_with_iobinding(binding)
    assert (binding.copy_outputs_to_cpu()[0] == expected).all()
    options = ort.SessionOptions()
    options.add_session_config_entry(b"a", b"b")
    assert options.get_session_config_entry("a") == "b"


def test_async_runs_of_what_fits(ort, mul):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session, done, got = make(ort, mul, options), threading.Event(), []

    def callback(results, user_data, error):
        got.append((len(results), user_data, bool(error)))
        done.set()

    for feed in (X.tolist(), X, X[:2]):
        done.clear()
        session.run_async(None, {"X": feed}, callback, 7)
        assert done.wait(10)
    assert got == [(1, 7, False), (1, 7, False), (0, 7, True)]


def vector(C, ort, *arrays):
    found = C.OrtValueVector()
    for array in arrays:
        found.push_back(ort.OrtValue.ortvalue_from_numpy(array)._ortvalue)
    return found


def test_vectors(ort, C, mul):
    session, options = make(ort, mul), ort.RunOptions()
    device = ort.OrtDevice.make("cpu", 0)._get_c_device()
    (expected,) = session.run(None, {"X": X})
    written = X.copy()
    for fetches, held in ((vector(C, ort), None), (vector(C, ort, written), written)):
        session.run_with_ortvaluevector(options, ["X"], vector(C, ort, X), ["Y"], fetches, [device])
        assert len(fetches) == 1
        assert (fetches[0].numpy() == expected).all()
        assert held is None or (held == expected).all()
    for names, feeds in ((["Q"], vector(C, ort, X)), (["X"], vector(C, ort))):
        with pytest.raises(C.InvalidArgument):
            session.run_with_ortvaluevector(options, names, feeds, ["Y"], vector(C, ort), [device])


def test_a_delegate_selects_providers(ort, C, mul):
    asked = []

    def delegate(devices, model, runtime, most):
        asked.append((model["graph_name"], most, type(runtime)))
        return [device for device in devices if device.ep_name == "CPUExecutionProvider"]

    options = ort.SessionOptions()
    assert not options.has_providers()
    options.set_provider_selection_policy_delegate(delegate)
    assert options.has_providers()
    session = ort.InferenceSession(mul, options)
    assert asked == [("g", 8, dict)]
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.run(None, {"X": X})[0].shape == (3, 2)

    for chosen in (lambda *_: [], lambda *_: None, lambda *_: [1], lambda d, *_: d[:1] * 20, lambda *_: 1 / 0):
        options.set_provider_selection_policy_delegate(chosen)
        with pytest.raises(C.Fail, match="EP selection delegate"):
            ort.InferenceSession(mul, options)

    options = ort.SessionOptions()
    options.set_provider_selection_policy(ort.OrtExecutionProviderDevicePolicy.PREFER_CPU)
    assert options.has_providers()
    assert ort.InferenceSession(mul, options).get_providers() == ["CPUExecutionProvider"]


def test_metadata_is_one_object(ort, mul):
    session = make(ort, mul)
    assert session.get_modelmeta() is session.get_modelmeta()


def test_a_profile_that_cannot_be_written_ends_nothing(ort, mul, tmp_path):
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "no" / "where")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert make(ort, mul, options).end_profiling().startswith(options.profile_file_prefix)


def test_text_of_variable_width(mul):
    """What NumPy calls StringDType comes in as text, and goes out as objects; onnxruntime refuses it."""
    from tests.api.test_errors import TEXT

    (found,) = ortlite.InferenceSession(TEXT).run(None, {"X": np.array(["a"], np.dtypes.StringDType())})
    assert found.dtype == object
    assert found.tolist() == ["a"]


def test_taps_of_a_model_without_outputs():
    from tests.api.test_errors import RELU, changed

    session = ortlite.InferenceSession(changed(RELU, lambda m: m.graph.ClearField("output")))
    outputs, values = session.run(None, {"X": X.reshape(2, 3)}, taps="Y")
    assert outputs == []
    assert values["Y"].shape == (2, 3)


def test_an_error_of_the_logger_s_callback_is_told_by_a_plain_python(mul, capfd, monkeypatch):
    """Python's own sys.unraisablehook takes no objects that Python code can make; pytest's does."""
    import sys

    def refuse(*record):
        raise ValueError("not today")

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    ortlite.set_default_logger_callback(refuse, severity=1)
    try:
        make(ortlite, mul)
    finally:
        ortlite.set_default_logger_callback(None)
        ortlite.set_default_logger_severity(2)
    assert "not today" in capfd.readouterr().err
