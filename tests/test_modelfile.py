"""Model files: whole, readable by nobody's code but ours, and refused when anything is wrong with them."""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from definetti_np import Model, ModelFileError, Network, load, ops
from definetti_np import test as predict_with
from definetti_np.files.archive import FORMAT_VERSION, read_model, write_model
from definetti_np.layers import Dense

GOLDEN = Path(__file__).parent / "golden"


def model_of(seed=1, **changes):
    arguments = {"phi_net": [("conv", 2, 3), ("fc", 4)], "g": ("moments", 1, 2.5), "h_net": [("fc", 3), ("softmax",)]}
    network = Network((None, 4, 2), (2,), **{**arguments, **changes}, seed=seed)
    return Model(network, loss="cross-ent", seed=seed, batches_trained=7)


@pytest.fixture
def saved(tmp_path):
    model_of().save(tmp_path / "weights")
    return tmp_path / "weights.npz"


def rewrite(path, change):
    """Change the header (a dict) and the arrays of a model file, and sign it again."""
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(arrays.pop("header").tobytes())
    del header["sha256"]
    change(header, arrays)
    sign(header)
    np.savez(path, header=np.frombuffer(canonical(header), np.uint8), **arrays)


def canonical(header):
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def sign(header):
    header["sha256"] = hashlib.sha256(canonical(header)).hexdigest()


def test_load__gives_the_model_that_was_saved(tmp_path):
    model = model_of(seed=2**70)
    model.save(tmp_path / "weights")
    for path in ("weights", "weights.npz"):
        loaded = load(tmp_path / path)
        assert (loaded.loss, loaded.seed, loaded.batches_trained) == ("cross-ent", 2**70, 7)
        assert loaded.network.spec == model.network.spec
        assert loaded.network.flat.weights.tobytes() == model.network.flat.weights.tobytes()
        data = np.random.default_rng(1).standard_normal((3, 5, 4, 2))
        np.testing.assert_array_equal(loaded.predict(data), model.predict(data))
        np.testing.assert_array_equal(predict_with(list(data), tmp_path / path), model.predict(data))


def test_load__a_file_of_more_than_4_gb_has_another_end(saved, monkeypatch):
    """zipfile writes it also for a small file, if it takes that for a large one."""
    expected = read_model(saved)[1]
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    model_of().save(saved)
    assert saved.read_bytes()[-42:-38] == b"PK\6\7"
    for name, array in read_model(saved)[1].items():
        np.testing.assert_array_equal(array, expected[name])


def test_save__same_model_same_bytes(tmp_path):
    for name in ("a", "b"):
        model_of().save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_save__expands_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model_of().save("~/weights.v2")
    assert (tmp_path / "weights.v2.npz").exists()
    load("~/weights.v2")


def test_save__header_is_canonical_json(saved):
    with np.load(saved, allow_pickle=False) as file:
        text = file["header"].tobytes().decode()
    header = json.loads(text)
    assert text == json.dumps(header, sort_keys=True, separators=(",", ":"))
    assert header["format_version"] == 2
    assert header["network"]["input_shape"] == [None, 4, 2]
    assert set(header["packages"]) == {"definetti_np", "numba", "numpy"}


@pytest.mark.parametrize("stage", ["savez", "fsync", "replace"])
def test_save__a_failure_leaves_the_old_file_and_nothing_else(saved, monkeypatch, stage):
    before = saved.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(*((np, stage) if stage == "savez" else (os, stage)), fail)
    with pytest.raises(OSError, match="disk full"):
        model_of(seed=2).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["weights.npz"]


def test_save__folder_must_exist(tmp_path):
    with pytest.raises(ValueError, match="path: the folder .*no' does not exist; create it first"):
        model_of().save(tmp_path / "no" / "weights")


def test_load__no_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"weights\.npz: there is no such model file"):
        load(tmp_path / "weights")
    with pytest.raises(ModelFileError, match="there is no such model file"):
        predict_with([], tmp_path / "weights")


def test_load__what_is_no_file_or_may_not_be_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.npz")  # which would be read for ever
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "nowhere.npz").symlink_to("no")
    for name in ("pipe", "folder", "nowhere", "pipe.npz/x"):
        with pytest.raises(ModelFileError, match="there is no such model file"):
            load(tmp_path / name)
    with pytest.raises(ModelFileError, match="not a readable definetti_np model: .*File name too long"):
        load(tmp_path / ("x" * 300))
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    with pytest.raises(ModelFileError, match="not a readable definetti_np model: .*Too many levels of symbolic links"):
        load(tmp_path / "loop")

    def refuse(*arguments, **keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)  # as for a file in a folder that may not be searched
    with pytest.raises(ModelFileError, match="not a readable definetti_np model: .*Permission denied"):
        load(tmp_path / "weights")
    monkeypatch.undo()


@pytest.fixture
def tiny(tmp_path):
    """The path of a model file of two weights."""
    network = Network((None, 1), (1,), (), ("max",), [("matmul",)], seed=1)
    Model(network, loss="l2", seed=1, batches_trained=0).save(tmp_path / "tiny")
    return tmp_path / "tiny.npz"


def write_byte(path, position, byte):
    """Write over one byte of a file and leave the others, which is sooner done than to write it anew."""
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(bytes([byte]))


def test_load__every_truncation_is_refused(tiny):
    for length in reversed(range(tiny.stat().st_size)):
        os.truncate(tiny, length)
        with pytest.raises(ModelFileError, match=r"tiny\.npz: not a readable definetti_np model: "):
            read_model(tiny)


def test_load__every_flipped_bit_is_refused_or_harmless(tiny):
    whole = tiny.read_bytes()
    header, weights = read_model(tiny)
    expected = header, {name: array.tobytes() for name, array in weights.items()}
    harmless = set()
    for position in range(len(whole)):
        for bit in range(8):
            write_byte(tiny, position, whole[position] ^ 1 << bit)
            try:
                header, weights = read_model(tiny)
            except ModelFileError:
                continue
            assert (header, {name: array.tobytes() for name, array in weights.items()}) == expected
            harmless.add(position)
        write_byte(tiny, position, whole[position])
    assert tiny.read_bytes() == whole
    assert len(harmless) < 0.2 * len(whole), "times and attributes of zip members, which nothing reads"


def test_load__random_damage_of_a_larger_file(saved):
    """Bytes changed, removed, inserted or moved."""
    whole = saved.read_bytes()
    weights = load(saved).network.flat.weights.tobytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(whole)
        for start in rng.integers(len(whole), size=rng.integers(1, 4)):
            stop = start + rng.integers(1, 20)
            other = rng.integers(len(whole))
            damaged[start:stop] = (b"", rng.bytes(stop - start), whole[other : other + rng.integers(20)])[
                rng.integers(3)
            ]
        saved.unlink()  # because a file that is written over goes to the disk at once
        saved.write_bytes(damaged)
        try:
            assert load(saved).network.flat.weights.tobytes() == weights
        except ModelFileError:
            refused += 1
    assert refused > 2500


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("version_*_predictions.npz")), ids=lambda path: path.stem)
def test_load__files_of_every_version(path):
    """They were written by the code of that time; see make_golden.py."""
    with np.load(path) as file:
        data, predictions = file["data"], file["predictions"]
    model = load(str(path).removesuffix("_predictions.npz"))
    weights = [array.tobytes() for array in model.network.parameters.values()]
    with np.load(str(path).replace("_predictions", "")) as file:
        assert weights == [file[name].tobytes() for name in model.network.parameters]
    np.testing.assert_allclose(model.predict(data), predictions, rtol=1e-5, atol=1e-7)


def test_golden__every_version_has_its_files():
    for version in range(1, FORMAT_VERSION + 1):
        assert len(list(GOLDEN.glob(f"version_{version}_*_predictions.npz"))) == 2


CHANGES = {
    "other format": (lambda h, a: h.update(format="x"), "its header is that of another kind of file, 'x'"),
    "no format": (lambda h, a: h.pop("format"), "its header is that of another kind of file, None"),
    "future version": (lambda h, a: h.update(format_version=99), "version 99, .* needs a newer definetti_np"),
    "version a bool": (lambda h, a: h.update(format_version=True), "format version True"),
    "version 0": (lambda h, a: h.update(format_version=0), "format version 0"),
    "seed null": (lambda h, a: h.update(seed=None), "seed must be an integer, got None"),
    "arrays a list": (lambda h, a: h.update(arrays=[]), "its header lists"),
    "arrays a number": (lambda h, a: h.update(arrays=1), "not a readable definetti_np model"),
    "dtype in network": (lambda h, a: h["network"].update(dtype="float64"), "the header describes no network"),
    "no seed": (lambda h, a: h.pop("seed"), "the header describes no network: 'seed'"),
    "another loss": (lambda h, a: h.update(loss="l2"), "loss 'l2' needs an h_net"),
    "another network": (lambda h, a: h["network"].update(g=["max"]), "weights of other names or shapes"),
    "unknown layer": (lambda h, a: h["network"].update(phi_net=[["cnov"]]), "unknown layer 'cnov'"),
    "an array too many": (lambda h, a: a.update(extra=np.zeros(1)), "its header lists"),
    "an array missing": (lambda h, a: a.pop("h.0.bias"), "its header lists"),
    "another array": (lambda h, a: a.update({"h.0.bias": a["h.0.bias"] + 1}), "h.0.bias is damaged"),
    "another dtype": (lambda h, a: a.update({"h.0.bias": a["h.0.bias"].astype("i4")}), "h.0.bias is not as its header"),
    "another shape": (lambda h, a: a.update({"h.0.bias": a["h.0.bias"][:, None]}), "h.0.bias is not as its header"),
    "other bytes": (lambda h, a: h["arrays"]["h.0.bias"].update(bytes=13), "h.0.bias is not as its header"),
    "Fortran order": (lambda h, a: a.update({"h.0.weight": np.asfortranarray(a["h.0.weight"])}), "does not write"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_load__a_file_that_does_not_add_up(saved, change):
    function, message = CHANGES[change]
    rewrite(saved, function)
    with pytest.raises(ModelFileError, match=message):
        load(saved)


def test_load__weights_that_are_not_finite(tmp_path):
    model = model_of()
    model.network.parameters["h.0.bias"][0] = np.nan
    with pytest.raises(ValueError, match="only float32 networks with finite weights can be saved"):
        model.save(tmp_path / "weights")
    description = {"network": model.network.spec.as_dict(), "loss": "cross-ent", "seed": 1, "batches_trained": 1}
    write_model(tmp_path / "weights.npz", description, dict(model.network.parameters))
    with pytest.raises(ModelFileError, match=r"h\.0\.bias holds values that are not finite"):
        load(tmp_path / "weights")


def test_load__other_files(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(ModelFileError, match="not a readable definetti_np model: it has no header"):
        load(tmp_path / "arrays")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as file:
        file.writestr("header.npy", "hello")
    with pytest.raises(ModelFileError, match="not a readable definetti_np model"):
        load(tmp_path / "text")


FUNCTION_CHANGES = {
    "a row of 10**9": ({"input_shape": [None, 10**9]}, "input_shape: a row must have at most 16777216 values"),
    "a row of 10**400": ({"input_shape": [2, 10**200, 10**200]}, "input_shape: a row must have at most"),
    "a dtype": ({"dtype": "float64"}, "unexpected keyword argument 'dtype'"),
    "a seed": ({"seed": 3}, "unexpected keyword argument 'seed'"),
    "a long argument": ({"x" * 10**6: 3}, "the header describes no network"),
    "a long shape": ({"output_shape": [1] * 10**5}, "output_shape must have one dimension"),
    "other shapes": ({"input_shape": [None, 5]}, "network_function has other parameters than the model"),
}


@pytest.mark.parametrize("change", FUNCTION_CHANGES)
def test_load__a_model_of_a_function_that_does_not_add_up(tmp_path, change):
    """The shapes that the function is called with are the file's."""
    changes, message = FUNCTION_CHANGES[change]
    dense = Dense(2)

    def function(x):
        return dense(ops.max(x))

    network = Network.from_function((None, 4), (2,), function, seed=1)
    description = {
        "network": {**network.spec.as_dict(), **changes}, "loss": "l2", "seed": 1, "batches_trained": 0
    }  # fmt: skip
    write_model(tmp_path / "weights.npz", description, dict(network.parameters))
    with pytest.raises(ModelFileError, match=message) as caught:
        load(tmp_path / "weights", network_function=function)
    assert len(str(caught.value)) < 1500


def test_load__a_function_of_a_long_name(tmp_path):
    description = {
        "network": {"input_shape": [1, 1], "output_shape": [1], "network_function": "x" * 10**6},
        "loss": "l2", "seed": 1, "batches_trained": 0,
    }  # fmt: skip
    write_model(tmp_path / "weights.npz", description, {})
    with pytest.raises(ModelFileError, match="a model of a network_function .xxx.*more characters.*, which") as caught:
        load(tmp_path / "weights")
    assert len(str(caught.value)) < 1000


def test_save__more_than_could_be_read_is_not_written(tmp_path):
    """A file that `load` refuses would be a model that is lost."""
    with pytest.raises(OSError, match="its header of .* values is larger than any that definetti_np writes"):
        write_model(tmp_path / "w.npz", {}, {f"parameter.{i}": np.zeros(1, np.float32) for i in range(25_000)})
    assert os.listdir(tmp_path) == []
    write_model(tmp_path / "w.npz", {}, {f"parameter.{i}": np.zeros(1, np.float32) for i in range(10_000)})
    assert len(read_model(tmp_path / "w.npz")[1]) == 10_000
