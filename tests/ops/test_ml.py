"""ai.onnx.ml beside onnxruntime, and whole scikit-learn models beside scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from opcheck import PROVIDERS, check, compare, run_model, run_op

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
    probabilities = model.predict_proba(x)
    tolerance = 1e-2 if name == "SVC" else 1e-4
    same_as_sklearn(model, x, [model.predict(x), probabilities], tolerance, tolerance, zipmap=False)


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
