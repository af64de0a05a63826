"""ai.onnx.ml beside onnxruntime, and whole scikit-learn models beside scikit-learn."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from opcheck import PROVIDERS, check, compare, make_model, run_model, run_op

import ortlite
from ortlite.ops.ml import _forest, linear
from ortlite.provider import create

ML = {"domain": "ai.onnx.ml"}
R = np.random.default_rng(0)
X = R.standard_normal((5, 3)).astype(np.float32)
NUMBERS = [np.float32, np.float64, np.int64, np.int32]


@pytest.fixture(scope="module")
def iris():
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    return x.astype(np.float32), y


@pytest.mark.parametrize("dtype", NUMBERS)
def test_preprocessing(dtype):
    x = (X * 3).astype(dtype)
    check("Binarizer", x, threshold=0.5, opset=1, expected=(x > 0.5).astype(dtype), **ML)
    check("ArrayFeatureExtractor", x, np.array([2, 0]), opset=1, **ML)
    check("Scaler", x, offset=[1.0, 2.0, 3.0], scale=[0.5, 1.0, 2.0], opset=1, **ML)
    check("Scaler", x, offset=[1.0], scale=[0.5], opset=1, **ML)
    for norm in ("MAX", "L1", "L2"):
        check("Normalizer", x + dtype(9), norm=norm, opset=1, **ML)
    check("FeatureVectorizer", x, x[:, :2], inputdimensions=[3, 2], opset=1, **ML)


def test_normalizer_of_zeros():
    check("Normalizer", np.zeros((2, 3), np.float32), norm="L2", opset=1, expected=np.zeros((2, 3), np.float32), **ML)


def test_imputer():
    x = np.array([[1, np.nan, 3], [np.nan, 5, 6]], np.float32)
    check("Imputer", x, imputed_value_floats=[7.0], replaced_value_float=float("nan"), opset=1, **ML)
    check("Imputer", x, imputed_value_floats=[7.0, 8.0, 9.0], replaced_value_float=float("nan"), opset=1, **ML)
    check("Imputer", np.array([[1, -1]]), imputed_value_int64s=[4, 5], replaced_value_int64=-1, opset=1, **ML)


def test_label_encoders():
    words = np.array([["b", "a"], ["ü", "zz"]], object)
    given = {"keys_strings": ["a", "b", "ü"], "values_int64s": [10, 20, 30], "default_int64": -7}
    check("LabelEncoder", words, opset=2, **given, **ML)
    check("LabelEncoder", np.array([3, 1, 9]), keys_int64s=[1, 3], values_strings=["one", "three"], opset=2, **ML)
    nan = {"keys_floats": [1.5, float("nan")], "values_floats": [2.5, 9.0], "default_float": -1.0}
    expected = np.array([2.5, 9, -1], np.float32)  # keys are compared bit by bit, says ONNX; onnxruntime does not
    check("LabelEncoder", np.array([1.5, np.nan, 3], np.float32), opset=2, expected=expected, **nan, **ML)
    expected = np.array([[1, 0], [-1, -1]])
    check("LabelEncoder", words, classes_strings=["a", "b"], opset=1, expected=expected, **ML)
    both = {"cats_strings": ["a", "b"], "cats_int64s": [5, 6], "opset": 1}
    check("CategoryMapper", words, **both, **ML)
    check("CategoryMapper", np.array([6, 7]), **both, **ML)


def test_one_hot_encoder():
    check("OneHotEncoder", np.array([[1, 5], [3, 1]]), cats_int64s=[1, 3], opset=1, **ML)
    check("OneHotEncoder", np.array(["b", "x"], object), cats_strings=["a", "b"], opset=1, **ML)
    with pytest.raises(Exception, match=r"the_node.*none of the categories"):
        run_op("OneHotEncoder", np.array([7]), cats_int64s=[1], zeros=0, opset=1, **ML)


def test_maps():
    scores = np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)
    for labels in ({"classlabels_int64s": [3, 5]}, {"classlabels_strings": ["a", "b"]}):
        check("ZipMap", scores, opset=1, **labels, **ML)
    check("CastMap", {1: 2.5, 0: 1.5}, opset=1, expected=np.array([[1.5, 2.5]], np.float32), **ML)
    sparse = {"map_form": "SPARSE", "max_map": 4, "cast_to": "TO_INT64"}
    check("CastMap", {1: 2.0, 3: 1.0}, opset=1, expected=np.array([[0, 2, 0, 1]]), **sparse, **ML)
    words = {"string_vocabulary": ["a", "b", "c"], "opset": 1}
    check("DictVectorizer", {"a": 1, "c": 3}, expected=np.array([[1, 0, 3]]), **words, **ML)
    check("DictVectorizer", {"c": 0.5}, expected=np.array([[0, 0, 0.5]], np.float32), **words, **ML)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
def test_linear_models(transform):
    coefficients = R.random(9).tolist()
    x = np.abs(X) / 9 if transform == "PROBIT" else X
    intercepts = [0.1, 0.2, 0.3]
    check(
        "LinearRegressor", x, coefficients=coefficients, intercepts=intercepts, targets=3, post_transform=transform,
        opset=1, rtol=1e-3, **ML,
    )  # fmt: skip
    check(
        "LinearClassifier", x, coefficients=coefficients, intercepts=intercepts, classlabels_ints=[4, 5, 6],
        post_transform=transform, outputs=2, opset=1, rtol=1e-3, **ML,
    )  # fmt: skip


def test_binary_linear_classifier():
    given = {"coefficients": [1.0, -2.0, 0.5], "intercepts": [0.1], "classlabels_strings": ["no", "yes"]}
    for transform in ("NONE", "LOGISTIC"):
        check("LinearClassifier", X, post_transform=transform, outputs=2, opset=1, **given, **ML)


def converted(model, x, **options):
    from skl2onnx import to_onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to_onnx(model, x[:1], options={id(model): options} if options else None, target_opset={"": 18})


def same_as_sklearn(model, x, expected, rtol=1e-4, atol=1e-5, **options):
    proto = converted(model, x, **options)
    name = proto.graph.input[0].name
    for provider in PROVIDERS:
        outputs = run_model(proto, {name: x}, provider)
        assert len(outputs) >= len(expected)
        for got, wanted in zip(outputs, expected, strict=False):
            wanted = np.asarray(wanted)
            wanted = wanted.astype(object if wanted.dtype.kind == "U" else got.dtype).reshape(got.shape)
            compare(got, wanted, rtol, atol, type(model).__name__)


CLASSIFIERS = {
    "DecisionTreeClassifier": ("tree", {}),
    "RandomForestClassifier": ("ensemble", {"n_estimators": 7}),
    "ExtraTreesClassifier": ("ensemble", {"n_estimators": 7}),
    "GradientBoostingClassifier": ("ensemble", {"n_estimators": 5}),
    "LogisticRegression": ("linear_model", {"max_iter": 500}),
    "LinearDiscriminantAnalysis": ("discriminant_analysis", {}),
    "GaussianNB": ("naive_bayes", {}),
    "KNeighborsClassifier": ("neighbors", {}),
    "MLPClassifier": ("neural_network", {"max_iter": 60, "hidden_layer_sizes": (8,)}),
    "SVC": ("svm", {"probability": True}),
}


def make(name, module, options):
    import importlib

    return getattr(importlib.import_module(f"sklearn.{module}"), name)(**options)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.filterwarnings("ignore")
def test_classifiers(name, classes, iris):
    x, y = iris
    x, y = x[y < classes], y[y < classes]
    y = np.array(["setosa", "versicolor", "virginica"])[y]
    model = make(name, *CLASSIFIERS[name]).fit(x, y)
    same_as_sklearn(model, x, [model.predict(x), model.predict_proba(x)], 1e-4, 1e-4, zipmap=False)


REGRESSORS = {
    "DecisionTreeRegressor": ("tree", {}),
    "RandomForestRegressor": ("ensemble", {"n_estimators": 7}),
    "GradientBoostingRegressor": ("ensemble", {"n_estimators": 7}),
    "LinearRegression": ("linear_model", {}),
    "Ridge": ("linear_model", {}),
    "SVR": ("svm", {}),
}


@pytest.mark.parametrize("name", REGRESSORS)
@pytest.mark.filterwarnings("ignore")
def test_regressors(name, iris):
    x, _ = iris
    model = make(name, *REGRESSORS[name]).fit(x[:, :3], x[:, 3])
    same_as_sklearn(model, x[:, :3], [model.predict(x[:, :3])], 1e-3, 1e-4)


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf", "sigmoid"])
@pytest.mark.filterwarnings("ignore")
def test_support_vectors(kernel, iris):
    from sklearn import svm

    x, y = iris
    model = svm.SVC(kernel=kernel).fit(x, y)
    proto = converted(model, x, zipmap=False)
    (labels, *_) = run_model(proto, {proto.graph.input[0].name: x})
    np.testing.assert_array_equal(labels, model.predict(x))
    outliers = svm.OneClassSVM(kernel=kernel).fit(x)
    same_as_sklearn(outliers, x, [outliers.predict(x)])


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf", "sigmoid"])
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 6])
@pytest.mark.filterwarnings("ignore")
def test_probabilities_of_support_vectors(classes, kernel):
    """What scikit-learn gives is where libsvm stops its iteration, early: 1e-3 off the exact minimum."""
    from sklearn import svm
    from sklearn.datasets import make_classification

    x, y = make_classification(
        150, 6, n_informative=5, n_redundant=0, n_classes=classes, n_clusters_per_class=1, random_state=classes
    )
    x = x.astype(np.float32)
    for model in (svm.SVC(kernel=kernel, probability=True), svm.NuSVC(kernel=kernel, nu=0.2, probability=True)):
        model.set_params(random_state=0).fit(x, y)
        for name in ("_dual_coef_", "_intercept_", "_probA", "_probB", "support_vectors_"):
            setattr(model, name, getattr(model, name).astype(np.float32).astype(float))  # as the ONNX file has them
        sign = -1 if classes == 2 else 1
        model.dual_coef_, model.intercept_ = sign * model._dual_coef_, sign * model._intercept_
        given = x + np.float32(0.1)
        same_as_sklearn(model, given, [model.predict(given), model.predict_proba(given)], 1e-5, 1e-5, zipmap=False)


def machine(classes, vectors, features=4, seed=0, **more):
    """Attributes of a support vector classifier: `vectors` for each class, none for a linear machine."""
    r = np.random.default_rng(seed)
    total, pairs = classes * vectors, classes * (classes - 1) // 2
    rows = (classes - 1, total) if vectors else (classes, features)
    given = {
        "coefficients": r.standard_normal(rows).ravel().tolist(), "rho": r.standard_normal(max(pairs, 1)).tolist(),
        "kernel_params": [0.3, 0.1, 2.0], "classlabels_ints": [10 + c for c in range(classes)],
    }  # fmt: skip
    if vectors:
        given |= {
            "support_vectors": r.standard_normal(total * features).tolist(),
            "vectors_per_class": [vectors] * classes,
        }
    return given | more


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("probabilities", [False, True])
def test_support_vector_classifiers_beside_onnxruntime(kernel, classes, probabilities):
    x = R.standard_normal((7, 4)).astype(np.float32)
    pairs = classes * (classes - 1) // 2
    more = {"prob_a": [-1.5] * pairs, "prob_b": [0.25] * pairs} if probabilities else {}
    for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"):
        given = machine(classes, 2, kernel_type=kernel, post_transform=transform, **more)
        if classes > 2 or probabilities or "SOFTMAX" not in transform:
            check("SVMClassifier", x, outputs=2, opset=1, rtol=1e-4, atol=1e-5, **given, **ML)
    given["classlabels_strings"] = [f"class {c}" for c in range(classes)]
    del given["classlabels_ints"], given["post_transform"]
    check("SVMClassifier", x, outputs=2, opset=1, rtol=1e-4, atol=1e-5, **given, **ML)


def test_softmax_of_a_pair_is_taken():
    """Instead onnxruntime gives 1 - score and score; onnx.reference does as the attribute says."""
    given = machine(2, 2, kernel_type="RBF")
    x = R.standard_normal((7, 4)).astype(np.float32)
    scores = run_op("SVMClassifier", x, outputs=2, opset=1, **given, **ML)[1].astype(np.float64)
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    got = run_op("SVMClassifier", x, outputs=2, opset=1, post_transform="SOFTMAX", **given, **ML)[1]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("sign", ["both", "positive"])
def test_linear_machines_have_one_rho(classes, sign):
    x = R.standard_normal((9, 4)).astype(np.float32)
    for rho in ([0.5], [0.5, -2.0, 7.0], [0.5, 3.0]):
        for more in ({}, {"prob_a": [-1.0], "prob_b": [0.1]}):
            given = machine(classes, 0, **more) | {"rho": rho}
            if sign == "positive":
                given["coefficients"] = np.abs(given["coefficients"]).tolist()
            for transform in ("NONE", "LOGISTIC", "SOFTMAX"):
                check("SVMClassifier", x, outputs=2, opset=1, post_transform=transform, **given, **ML)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("one_class", [0, 1])
def test_support_vector_regressors_beside_onnxruntime(kernel, one_class):
    x = R.standard_normal((7, 4)).astype(np.float32)
    for supports in (3, 0) if kernel == "LINEAR" else (3,):
        given = {"coefficients": [0.5, -1.0, 0.75, 2.0][: supports or 4], "rho": [0.1, 5.0], "n_supports": supports}
        if supports:
            given["support_vectors"] = R.standard_normal(12).tolist()
        check("SVMRegressor", x, opset=1, one_class=one_class, kernel_type=kernel, kernel_params=[0.3, 0.1, 2.0],
              **given, **ML)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_transformers(iris):
    from sklearn import preprocessing
    from sklearn.impute import SimpleImputer

    x, _ = iris
    for model in (preprocessing.StandardScaler(), preprocessing.MinMaxScaler(), preprocessing.Normalizer(),
                  preprocessing.RobustScaler(), preprocessing.Binarizer(threshold=2.0), SimpleImputer()):  # fmt: skip
        given = x.copy()
        if isinstance(model, SimpleImputer):
            given[::7, 1] = np.nan
        same_as_sklearn(model.fit(given), given, [model.transform(given)])


@pytest.mark.filterwarnings("ignore")
def test_encoders_of_text():
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    words = np.array([["a", "x"], ["b", "y"], ["c", "x"]], object)
    for encoder in (OneHotEncoder(sparse_output=False), OrdinalEncoder()):
        encoder.fit(words)
        proto = to_onnx(encoder, initial_types=[("x", StringTensorType([None, 2]))], target_opset={"": 18})
        got = run_model(proto, {"x": words})[0]
        compare(got, encoder.transform(words).astype(got.dtype), 1e-6, 1e-6, "")


def test_trees_name_what_is_wrong():
    nodes = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [9, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, 2.0],
    }  # fmt: skip
    with pytest.raises(Exception, match=r"the_node.*feature 9, X has 3"):
        run_op("TreeEnsembleRegressor", X, opset=1, n_targets=1, **nodes, **ML)
    with pytest.raises(Exception, match=r"the_node.*no node 7"):
        run_op("TreeEnsembleRegressor", X, opset=1, n_targets=1, **{**nodes, "nodes_truenodeids": [7, 0, 0]}, **ML)
    with pytest.raises(Exception, match=r"the_node.*cycle"):
        run_op("TreeEnsembleRegressor", X, opset=1, n_targets=1, **{**nodes, "nodes_truenodeids": [0, 0, 0]}, **ML)


@pytest.mark.parametrize("mode", ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"])
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_tree_modes_and_missing_values(mode, aggregate):
    x = np.array([[0.5], [1.0], [-1.0], [np.nan]], np.float32)
    for tracks in (0, 1):
        check(
            "TreeEnsembleRegressor", x, n_targets=2, aggregate_function=aggregate, opset=1,
            nodes_treeids=[0, 0, 0, 1], nodes_nodeids=[0, 1, 2, 0], nodes_featureids=[0, 0, 0, 0],
            nodes_modes=[mode, "LEAF", "LEAF", "LEAF"], nodes_values=[0.5, 0.0, 0.0, 0.0],
            nodes_truenodeids=[1, 0, 0, 0], nodes_falsenodeids=[2, 0, 0, 0],
            nodes_missing_value_tracks_true=[tracks, 0, 0, 0],
            target_treeids=[0, 0, 0, 1], target_nodeids=[1, 2, 2, 0], target_ids=[0, 1, 0, 0],
            target_weights=[1.0, 2.0, 4.0, 8.0], **ML,
        )  # fmt: skip


STUMP = {
    "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
}  # fmt: skip
TARGETS = {"target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 1], "target_weights": [1.0, 2.0]}
CLASSES = {"class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [0, 1], "class_weights": [1.0, 2.0],
           "classlabels_int64s": [5, 6], "outputs": 2}  # fmt: skip


def doubles(*values):
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(values))


def modes(*values, kind=np.uint8):
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(values, kind))


ENSEMBLE = {
    "n_targets": 1, "nodes_featureids": [0, 1], "nodes_modes": modes(0, 0), "nodes_splits": doubles(0.0, 1.0),
    "nodes_truenodeids": [0, 1], "nodes_trueleafs": [1, 1], "nodes_falsenodeids": [1, 2], "nodes_falseleafs": [0, 1],
    "leaf_targetids": [0, 0, 0], "leaf_weights": doubles(1.0, 2.0, 3.0), "tree_roots": [0], "opset": 5,
}  # fmt: skip
FLOATS = X
WORDS = np.array(["a", "b"], object)
PAIRS = machine(3, 1, features=3)
HUGE = 1 << 62

# What does not fit, and what the error must name: (operator, input, attributes, pattern)
MISFITS = [
    ("ArrayFeatureExtractor", (FLOATS, np.array([0, 3])), {}, r"indices Y into the last axis of X \[.*3\]"),
    ("ArrayFeatureExtractor", (FLOATS, np.array([-1])), {}, r"indices Y into the last axis of X \[.*3\]"),
    ("Scaler", FLOATS, {"offset": [1.0, 2.0]}, "2 offsets"),
    ("Scaler", FLOATS, {"scale": [1.0] * 4}, "4 scales"),
    ("Scaler", FLOATS, {"scale": [1.0], "offset": [1.0] * 3}, "3 offsets beside 1 scales"),
    ("Imputer", FLOATS, {"imputed_value_floats": [1.0, 2.0]}, "2 imputed values"),
    ("Imputer", FLOATS, {"imputed_value_int64s": [1]}, "0 imputed values"),
    ("Normalizer", FLOATS, {"norm": "L3"}, "norm is MAX, L1 or L2, not 'L3'"),
    ("FeatureVectorizer", (FLOATS, FLOATS), {"inputdimensions": [3]}, "1 numbers for 2 inputs"),
    ("FeatureVectorizer", FLOATS, {"inputdimensions": [-1]}, "inputdimensions has -1"),
    ("FeatureVectorizer", FLOATS, {"inputdimensions": [HUGE]}, f"inputdimensions has {HUGE}"),
    ("LabelEncoder", WORDS, {"keys_strings": ["a"], "values_int64s": [1, 2], "opset": 2}, "1 keys.* for 2 values"),
    ("LabelEncoder", np.array([1.0]), {"keys_tensor": doubles(1.0), "values_tensor": doubles(2.0),
                                       "default_tensor": doubles(), "opset": 4}, "default_tensor has 0 elements"),
    ("LabelEncoder", WORDS, {"keys_strings": ["a"], "keys_int64s": [1], "values_int64s": [1], "opset": 2},
     "keys_int64s and keys_strings are given"),
    ("LabelEncoder", WORDS, {"keys_strings": ["a"], "values_floats": [1.0], "values_int64s": [1], "opset": 2},
     "values_floats and values_int64s are given"),
    ("CategoryMapper", WORDS, {"cats_strings": ["a"], "cats_int64s": [1, 2]}, "1 keys.* for 2 values"),
    ("DictVectorizer", {"a": 1.0}, {"string_vocabulary": ["a"], "int64_vocabulary": [1, 2]}, "2 numbers and 1 texts"),
    ("DictVectorizer", {"a": 1.0}, {"int64_vocabulary": [1]}, "vocabulary is numbers, the keys of X are not"),
    ("DictVectorizer", {1: 1.0}, {"string_vocabulary": ["a"]}, "vocabulary is text, the keys of X are not"),
    ("CastMap", {1: 2.0}, {"map_form": "SPARSE", "max_map": HUGE}, f"max_map is {HUGE}"),
    ("CastMap", {-1: 2.0}, {"map_form": "SPARSE", "max_map": 3}, r"keys \[-1\]"),
    ("OneHotEncoder", WORDS, {"cats_strings": ["a"], "cats_int64s": [1, 2]}, "2 cats_int64s beside 1 cats_strings"),
    ("OneHotEncoder", WORDS, {"cats_int64s": [1, 2]}, "cats_strings is empty"),
    ("ZipMap", FLOATS, {"classlabels_int64s": [1, 2]}, "2 labels"),
    ("LinearRegressor", FLOATS, {"coefficients": [1.0] * 3, "targets": HUGE}, f"3 coefficients.* {HUGE} scores"),
    ("LinearRegressor", FLOATS, {"coefficients": [1.0] * 6, "targets": -2}, "6 coefficients.* -2 scores"),
    ("LinearRegressor", FLOATS, {"coefficients": [1.0] * 3, "intercepts": [1.0, 2.0]}, "2 intercepts.* 1 scores"),
    ("LinearClassifier", FLOATS, {"coefficients": [1.0] * 9, "classlabels_ints": [1, 2], "outputs": 2},
     "2 class labels.* 3 scores"),
    ("LinearClassifier", FLOATS, {"coefficients": [1.0] * 7, "outputs": 2}, "7 coefficients.* 2 scores"),
    ("SVMRegressor", FLOATS, {"coefficients": [1.0] * 2}, "coefficients has 2 numbers.* 1 x 3"),
    ("SVMRegressor", FLOATS, {"coefficients": [1.0] * 2, "n_supports": HUGE}, f"coefficients has 2 .* 1 x {HUGE}"),
    ("SVMRegressor", FLOATS, {"coefficients": [1.0] * 2, "n_supports": -2}, "n_supports is -2"),
    ("SVMRegressor", FLOATS, {"coefficients": [1.0] * 2, "n_supports": 2, "support_vectors": [1.0] * 5},
     "support_vectors has 5 .* 2 x 3 = 6"),
    ("SVMRegressor", FLOATS, {"coefficients": [1.0] * 3, "kernel_params": [1.0]}, "kernel_params.* not 1 numbers"),
    ("SVMClassifier", FLOATS, PAIRS | {"rho": [1.0]}, "rho has 1 numbers for the 3 pairs of 3 classes"),
    ("SVMClassifier", FLOATS, PAIRS | {"prob_a": [1.0] * 3}, "prob_b has 0 numbers for the 3 pairs"),
    ("SVMClassifier", FLOATS, PAIRS | {"prob_a": [1.0] * 3, "prob_b": [1.0] * 2}, "prob_b has 2 numbers for the 3"),
    ("SVMClassifier", FLOATS, PAIRS | {"vectors_per_class": [HUGE, 1, 1]}, "support_vectors has 9 numbers"),
    ("SVMClassifier", FLOATS, PAIRS | {"vectors_per_class": [4, -2, 1]}, r"vectors_per_class \[4, -2, 1\]"),
    ("SVMClassifier", FLOATS, PAIRS | {"vectors_per_class": [2, 1]}, r"3 class labels for vectors_per_class \[2, 1\]"),
    ("SVMClassifier", FLOATS, PAIRS | {"coefficients": [1.0] * 5}, "coefficients has 5 numbers.* 2 x 3 = 6"),
    ("SVMClassifier", FLOATS, machine(3, 0, features=3) | {"coefficients": [1.0] * 8}, "coefficients has 8 .* 3 x 3"),
    ("SVMClassifier", FLOATS[None], machine(3, 0, features=3), r"X must be \(rows, features\), not \(1, 5, 3\)"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | TARGETS | {"n_targets": HUGE}, f"{HUGE} targets.*vote for 2"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | TARGETS | {"n_targets": 0}, "target .*1 of 0"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | {"n_targets": -3}, "-3 targets"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | TARGETS | {"n_targets": 2, "target_ids": [0, 2]}, "target .*2 of 2"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | TARGETS | {"n_targets": 2, "target_ids": [-1, 1]}, "target .*-1 of 2"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | TARGETS | {"n_targets": 2, "target_ids": [1]}, "1 target_ids"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | TARGETS | {"n_targets": 2, "target_nodeids": [1, 9]}, "has no node 9"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | {"nodes_values": [0.5]}, "1 nodes_values"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | {"nodes_nodeids": [0, 1, 1]}, "name 3 nodes, 2 different ones"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | {"nodes_featureids": [-2, 0, 0]}, "feature -2"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | {"nodes_featureids": [HUGE, 0, 0]}, f"feature {HUGE}, X has 3"),
    ("TreeEnsembleRegressor", FLOATS, STUMP | {"nodes_modes": ["BRANCH_X", "LEAF", "LEAF"]}, "unknown node modes"),
    ("TreeEnsembleClassifier", FLOATS, STUMP | CLASSES | {"class_ids": [0, 2]}, "class.* 2 of 2"),
    ("TreeEnsembleClassifier", FLOATS, STUMP | CLASSES | {"class_ids": [-1, 1]}, "class.* -1 of 2"),
    ("TreeEnsembleClassifier", FLOATS, STUMP | CLASSES | {"class_weights": [1.0]}, "1 class_weights"),
    ("TreeEnsembleClassifier", FLOATS, STUMP | CLASSES | {"base_values": [1.0] * 3}, "3 base values for 2"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"n_targets": HUGE}, f"{HUGE} targets"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"leaf_targetids": [0, 0, 1]}, "target .*1 of 1"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"leaf_targetids": [0, 0]}, "2 leaf_targetids, 3 leaf_weights"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"tree_roots": [0, 2]}, "tree_roots has 2"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"tree_roots": [-1]}, "tree_roots has -1"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"nodes_falsenodeids": [-1, 2]}, "leads to node -1"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"nodes_falsenodeids": [1, 3]}, "leads to leaf 3"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"nodes_falsenodeids": [0, 2]}, "cycle"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"nodes_modes": modes(0, 9)}, "node mode 9"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"nodes_modes": modes(0, 6)}, "0 sets for 1 nodes"),
    ("TreeEnsemble", X.astype(float), ENSEMBLE | {"nodes_trueleafs": [1]}, "1 nodes_trueleafs"),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "given", "attributes", "pattern"), MISFITS)
def test_attributes_that_do_not_fit(op_type, given, attributes, pattern):
    options = {"opset": 1} | attributes
    with pytest.raises(Exception, match=rf"the_node[\s\S]*{pattern}"):
        run_op(op_type, *(given if isinstance(given, tuple) else (given,)), **options, **ML)


def test_label_encoder_of_tensors():
    given = {"keys_tensor": doubles(1.0, 2.5), "values_tensor": doubles(7.0, 8.0), "opset": 4}
    x = np.array([[2.5, 1.0, 3.0]])
    check("LabelEncoder", x, default_tensor=doubles(-3.0), expected=np.array([[8.0, 7.0, -3.0]]), **given, **ML)
    given["values_tensor"] = modes(7, 8, kind=np.int16)
    check(
        "LabelEncoder",
        x,
        default_tensor=modes(9, kind=np.int16),
        expected=np.array([[8, 7, 9]], np.int16),
        **given,
        **ML,
    )


def test_the_ensemble_that_the_misfits_are_made_from_fits():
    check("TreeEnsemble", np.array([[-1.0, 5.0], [1.0, 0.5], [1.0, 5.0]]), expected=np.array([[1.0], [2.0], [3.0]]),
          **ENSEMBLE, **ML)  # fmt: skip


def test_nodes_that_many_paths_lead_to_are_looked_at_once():
    """Node i leads to i + 1 and i + 2: there are more paths than anyone can walk."""
    count = 3000
    chain = {
        "nodes_featureids": [0] * count, "nodes_modes": modes(*[0] * count), "nodes_splits": doubles(*[0.5] * count),
        "nodes_truenodeids": [*range(1, count), 0], "nodes_trueleafs": [*[0] * (count - 1), 1],
        "nodes_falsenodeids": [*range(2, count), 0, 1], "nodes_falseleafs": [*[0] * (count - 2), 1, 1],
        "leaf_targetids": [0, 0], "leaf_weights": doubles(1.0, 2.0), "n_targets": 1, "tree_roots": [0], "opset": 5,
    }  # fmt: skip
    (y,) = run_op("TreeEnsemble", np.array([[0.0], [1.0]]), **chain, **ML)
    assert y.tolist() == [[1.0], [1.0]]


def test_copies_of_shared_trees_are_bounded():
    splits = [_forest.Split(0, 0.0, "LEQ", i + 1 if i < 1999 else ~0, ~0, False) for i in range(2000)]
    with pytest.raises(ValueError, match="trees or more share 2000 nodes"):
        _forest.build(splits, range(2000), {0: [(0, 1.0)]}, 1, "SUM", "float32")


def test_votes_that_would_need_a_huge_table():
    count = 1 << 14
    splits = [_forest.Split(0, i, "LEQ", ~i, i + 1 if i < count - 2 else ~(count - 1), False) for i in range(count - 1)]
    with pytest.raises(ValueError, match=f"{count} leaves of a tree"):
        _forest.build(splits, [0], {leaf: [(leaf, 1.0)] for leaf in range(count)}, count, "SUM", "float32")


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_targets_with_few_and_with_many_trees(aggregate):
    """Trees that are one leaf each: tree t votes for target 0, and for target t where that is below 4."""
    count, silent = 20, 3
    trees = list(range(count))
    votes = [(t, 0, t + 1.0) for t in trees] + [(t, t, -float(t)) for t in range(1, 4)]
    given = {
        "nodes_treeids": trees, "nodes_nodeids": [0] * count, "nodes_featureids": [0] * count,
        "nodes_modes": ["LEAF"] * count, "nodes_values": [0.0] * count, "nodes_truenodeids": [0] * count,
        "nodes_falsenodeids": [0] * count, "target_treeids": [v[0] for v in votes],
        "target_nodeids": [0] * len(votes), "target_ids": [v[1] for v in votes],
        "target_weights": [v[2] for v in votes],
    }  # fmt: skip
    check("TreeEnsembleRegressor", X, opset=1, n_targets=4 + silent, aggregate_function=aggregate, **given, **ML)


@pytest.mark.parametrize("shape", [(0, 3), (2, 3), (3,)])
def test_empty_batches_and_single_rows(shape):
    x = np.ones(shape, np.float32)
    if len(shape) == 1:
        with pytest.raises(Exception, match=r"X must be \(rows, features\), not \(3,\)"):
            run_op("TreeEnsembleRegressor", x, opset=1, n_targets=2, **STUMP, **TARGETS, **ML)
    else:
        check("TreeEnsembleRegressor", x, opset=1, n_targets=2, **STUMP, **TARGETS, **ML)
        three = CLASSES | {"classlabels_int64s": [5, 6, 7]}
        check("TreeEnsembleClassifier", x, opset=1, **STUMP, **three, **ML)
    check("SVMClassifier", x, opset=1, outputs=2, **PAIRS, prob_a=[-1.0] * 3, prob_b=[0.0] * 3, **ML)
    check("LinearClassifier", x, opset=1, outputs=2, coefficients=[1.0] * 6, intercepts=[0.0, 1.0],
          classlabels_ints=[1, 2], **ML)  # fmt: skip


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (0, 0)])
@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer_of_nothing(shape, norm):
    check("Normalizer", np.ones(shape, np.float32), opset=1, norm=norm, expected=np.ones(shape, np.float32), **ML)


def regressor(count):
    return make_model("LinearRegressor", np.zeros((1, count), np.float32), opset=1,
                      coefficients=[float(i) for i in range(count)], **ML).SerializeToString()  # fmt: skip


PLAIN = [("CPUExecutionProvider", {"compiled": "0"})]  # it is the kernel that is watched


@pytest.fixture
def memos(monkeypatch):
    """The dictionary that each run of a kernel is given to keep tables in, and the table that it gets."""
    seen = []
    vector = linear.vector

    def spy(xp, memo, name, values, dtype):
        result = vector(xp, memo, name, values, dtype)
        seen.append((memo, memo[name, dtype]))
        return result

    monkeypatch.setattr(linear, "vector", spy)
    return seen


def test_tables_belong_to_the_session(memos):
    data = regressor(1000)
    x = {"x0": np.ones((1, 1000), np.float32)}
    first, second = (ortlite.InferenceSession(data, providers=PLAIN) for _ in range(2))
    for _ in range(3):  # interpreted, and specialised
        first.run(None, x)
    second.run(None, x)
    *same, other = memos
    assert all(table is same[0][1] for _, table in same)
    assert other[0] is not same[0][0]
    assert other[1] is not same[0][1]


def test_dropped_sessions_keep_nothing():
    count = 20_000
    data = regressor(count)
    x = {"x0": np.ones((1, count), np.float32)}

    def use():
        session = ortlite.InferenceSession(data, providers=["CPUExecutionProvider"])
        for _ in range(3):
            session.run(None, x)

    use()  # whatever is made once and for all
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            use()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4 * count  # bytes: less than one table of one session


def test_many_threads_meet_in_a_new_session(memos):
    count = 2000
    session = ortlite.InferenceSession(regressor(count), providers=PLAIN)
    x = np.ones((1, count), np.float32)
    gate = threading.Barrier(8)

    def use(_):
        gate.wait()
        return session.run(None, {"x0": x})[0].item()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(8))) == {count * (count - 1) / 2}
    assert memos
    assert len({id(table) for _, table in memos}) == 1


@pytest.mark.parametrize("modes", [("LEQ",), ("LT", "GTE"), ("LEQ", "LT", "EQ", "NEQ", "GT", "GTE")])
@pytest.mark.parametrize("name", PROVIDERS)
def test_all_tests_at_once_and_one_a_step_find_the_same_leaves(monkeypatch, name, modes):
    if "float64" not in create(name).storage:
        pytest.skip(f"{name} has no float64, which trees need: sessions run them on NumPy")
    rng, splits, votes, roots = np.random.default_rng(1), [], {}, []
    for _ in range(3):
        roots.append(len(splits))
        for number in range(7):  # of a full tree of three steps
            branches = (
                [len(splits) + 1 + number + k for k in (0, 1)] if number < 3 else [~len(votes), ~(len(votes) + 1)]
            )
            if number > 2:
                votes |= {len(votes) + k: [(k, float(rng.integers(1, 100)))] for k in (0, 1)}
            mode = str(rng.choice(modes))
            splits.append(
                _forest.Split(int(rng.integers(2)), float(rng.integers(-1, 2)), mode, *branches, bool(number % 2))
            )
    forest = _forest.build(splits, roots, votes, 2, "SUM", "float32")
    xp = create(name).xp
    for rows in (0, 1, 9):
        x = np.array(rng.integers(-2, 3, (rows, 2)), np.float32)
        x[rng.random(x.shape) < 0.2] = np.nan
        found = []
        for limit in (0, 1000):
            monkeypatch.setattr(_forest, "AT_ONCE", limit)
            found.append(_forest.scores(xp, xp.asarray(x), forest))
        assert np.array_equal(*map(np.asarray, found))
        assert found[0].shape == (rows, 2)
