"""Files that are made to harm who loads them: refused, without running, allocating or writing anything."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from sessions import Session
from test_modelfile import model_of, sign

from definetti_np import Model, Network, load, ops
from definetti_np.files.checkpoint import Checkpoint, write_checkpoint
from definetti_np.layers import Dense

# Loads each file of a folder with little memory, and tells of everything that it should not reach.
LOADER = """
import os, resource, sys, traceback
import definetti_np.model
from definetti_np import ModelFileError, load
from definetti_np.files.checkpoint import read_checkpoint
from pathlib import Path

watching = False

def watch(event, arguments):
    if watching and event in ("pickle.find_class", "os.system", "subprocess.Popen", "exec", "os.mkdir", "os.rename"):
        print("AUDIT", event, arguments)

sys.addaudithook(watch)
load(sys.argv[2])
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, size + 2**26))
watching = True
load(sys.argv[2])
for path in sorted(Path(sys.argv[1]).glob("*.npz")):
    for read in load, read_checkpoint:
        try:
            read(path)
            print("LOADED", path.name)
        except ModelFileError as error:
            if path.name not in str(error) or isinstance(error.__cause__, MemoryError):
                print("UNCLEAR", path.name, error)
            shown = "".join(traceback.format_exception(error))
            if len(str(error)) > 1500 or len(shown) > 20_000:
                print("LONG", path.name, len(str(error)), len(shown))
watching = False
print("done")
"""


class Canary:
    def __reduce__(self):
        return (os.mkdir, ("canary",))


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def npy_of_shape(shape, dtype="<f4", values=b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + values


def zip_of(members, compression=zipfile.ZIP_STORED, comment=b"") -> bytes:
    """Members as pairs, so that a name may be there twice."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.comment = comment
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return stream.getvalue()


def hostile_files(valid: bytes):
    """Name and bytes of each, most of them made from those of a valid file."""
    with zipfile.ZipFile(io.BytesIO(valid)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    header_member, first, *others = members
    header = json.loads(np.load(io.BytesIO(header_member[1])).tobytes())

    def with_header(change, members=members[1:]):
        changed = json.loads(json.dumps(header))
        del changed["sha256"]
        change(changed)
        sign(changed)
        text = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()
        return zip_of([("header.npy", npy(np.frombuffer(text, np.uint8))), *members])

    def listed(**changes):
        return lambda header: header["arrays"][first[0][:-4]].update(changes)

    canary = npy(np.array([Canary()], object))
    yield "pickle", pickle.dumps(Canary())
    yield "pickle in the header", zip_of([("header.npy", canary), *members[1:]])
    yield "pickle in an array", zip_of([header_member, (first[0], canary), *others])
    yield "pickle as a member", zip_of([header_member, (first[0], pickle.dumps(Canary())), *others])
    yield "pickle that is listed", with_header(listed(dtype="|O"), [(first[0], canary), *others])

    for shape in ((10**13,), (2**62, 2**62), (0, 10**18), (-1,), (2**40, 0)):
        bomb = npy_of_shape(shape)
        yield f"shape {shape} in the header", zip_of([("header.npy", npy_of_shape(shape, "|u1"))])
        changes = {"shape": list(shape), "bytes": 4 * int(np.prod(shape, dtype=object))}
        yield f"shape {shape} that is listed", with_header(listed(**changes), [(first[0], bomb), *others])
    yield "width of 10**12", with_header(lambda h: h["network"].update(h_net=[["fc", 10**12], ["softmax"]]))
    yield "conv of 10**12", with_header(lambda h: h["network"].update(phi_net=[["conv", 2, 10**12]]))
    yield "rows of 10**15", with_header(lambda h: h["network"].update(input_shape=[10**15, 4, 2], g=["sort"]))
    yield from large_files(header, members[1:], with_header)

    zeros = npy(np.zeros(2**26, np.uint8))
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield f"compressed {compression} header", zip_of([("header.npy", zeros)], compression)
        yield f"compressed {compression}", zip_of(members, compression)

    yield "a member twice", zip_of([*members, first])
    yield "the header twice", zip_of([header_member, *members])
    yield "the header last", zip_of([*members[1:], header_member])
    yield "no header", zip_of(members[1:])
    yield "no member", zip_of([])
    for name in ("../evil.npy", "/evil.npy", "evil", "evil.npy/", "a\\..\\b.npy", "h.0.bias.npy\0x"):
        yield f"member {os.path.basename(name)[:4]} {len(name)}", zip_of([*members, (name, b"evil")])
        yield f"instead {os.path.basename(name)[:4]} {len(name)}", zip_of([*members[:-1], (name, members[-1][1])])
    yield "comment", zip_of(members, comment=b"evil")
    yield "prepended", b"#!/bin/sh\n" + valid
    yield "prepended zip", valid + valid
    yield "appended", valid + b"evil"

    start = valid.index(b"PK\1\2")
    for name, offset, value in [("encrypted", 8, 1), ("descriptor", 8, 8), ("utf-8", 8, 0x800), ("method", 10, 99)]:
        for where in ("central", "both"):
            damaged = bytearray(valid)
            struct.pack_into("<H", damaged, start + offset, value)
            if where == "both":
                struct.pack_into("<H", damaged, offset - 2, value)
            yield f"{name} {where}", bytes(damaged)
    sizes = bytearray(valid)
    struct.pack_into("<II", sizes, start + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    yield "a member of 4 GiB", bytes(sizes)
    second = valid.index(b"PK\1\2", start + 1)
    overlap = bytearray(valid)
    overlap[second + 42 : second + 46] = valid[start + 42 : start + 46]
    yield "overlapping members", bytes(overlap)
    gap = bytearray(valid)
    gap[start:start] = b"evil"
    end = gap.rindex(b"PK\5\6")
    struct.pack_into("<I", gap, end + 16, start + 4)
    yield "a gap", bytes(gap)

    texts = {
        "nested": b"[" * 10**6,
        "long number": b'{"format":"definetti_np model","format_version":' + b"9" * 10**5 + b"}",
        "NaN": json.dumps({**header, "seed": float("nan")}).encode(),
        "a list": b"[1]",
        "no UTF-8": b"\xff" * 100,
        "key twice": json.dumps(header, sort_keys=True, separators=(",", ":")).encode()[:-1] + b',"seed":2}',
    }
    for name, text in texts.items():
        yield f"header {name}", zip_of([("header.npy", npy(np.frombuffer(text, np.uint8))), *members[1:]])
    values = np.load(io.BytesIO(first[1]))
    as_version_2 = io.BytesIO()
    np.lib.format.write_array(as_version_2, values, version=(2, 0))
    for name, content in {
        "version 2": as_version_2.getvalue(),
        "other bytes": npy(values.astype(">f4")),
        "structured": npy(values.view([("a", "<f4")])),
        "long header": b"\x93NUMPY\1\0\xff\xff" + b"(" * 65535,
        "code": b"\x93NUMPY\1\0\x40\0" + b"__import__('os').mkdir('canary')".ljust(64),
        "empty": b"",
    }.items():
        yield f"array {name}", zip_of([header_member, (first[0], content), *others])


def large_files(header, arrays, with_header):
    """Files with right checksums that are large for what they are, or would become so when they are read."""

    def with_text(text):
        return zip_of([("header.npy", npy(np.frombuffer(text, np.uint8))), *arrays])

    def network(**changes):
        return with_header(lambda h: h["network"].update(changes))

    def anywhere(**changes):
        return with_header(lambda h: h.update(changes))

    for number in (2**15, 10**6):  # within what a header may be, and beyond it
        yield f"{number} lists", with_text(b"[" + b"[]," * number + b"[]]")
        yield f"{number} objects", with_text(b"[" + b"{}," * number + b"{}]")
        yield f"{number} nested objects", with_text(b'{"a":' * number + b"1" + b"}" * number)
        yield f"{number} texts", anywhere(seed=["ab"] * number)
        yield f"{number} layers", network(phi_net=[["fc", 1]] * number)
        yield f"{number} layers of h", network(h_net=[["fc", 1]] * number + [["softmax"]])
        yield f"{number} sizes of a layer", network(phi_net=[["fc", *range(number)]])
        yield f"{number} moments", network(g=["moments", *range(1, number + 1)])
        yield f"{number} numbers of an input_shape", network(input_shape=list(range(1, number)))
        yield (
            f"{number} arrays that are listed",
            with_header(lambda h, number=number: h["arrays"].update({f"x{i}": {"shape": []} for i in range(number)})),
        )
        yield f"{number} summaries", with_text(b'{"a":[' + b'{"summary":[]},' * number + b"[]]}")
        described = {**header, "format": "definetti_np checkpoint"}
        for name, summary in {
            "empty lines": [""] * number,
            "lines again and again": ["0 0.0 0.0"] * number,
            "lists for lines": [[]] * number,
        }.items():
            described = {**described, "summary": summary}
            del described["sha256"]
            sign(described)
            yield f"{number} {name}", with_text(json.dumps(described, sort_keys=True, separators=(",", ":")).encode())
    for length in (10**5, 2 * 10**7):
        yield f"a kind of {length} characters", anywhere(format="x" * length)
        yield f"a seed of {length} characters", anywhere(seed="\U0001f600" * (length // 12))
        yield f"a network of {length} characters", anywhere(network="x" * length)
        yield f"a layer of {length} characters", network(phi_net=[["x" * length]])
        yield f"a function of {length} characters", network(network_function="x" * length)
        yield f"an argument of {length} characters", network(**{"x" * length: 1})
        yield (
            f"a dtype of {length} characters",
            with_header(lambda h, length=length: h["arrays"]["phi.0.bias"].update(shape="x" * length)),
        )
    yield "moments of 400 digits", network(g=["moments", 10**400])
    yield "a layer of 4000 digits", network(phi_net=[["fc", 10**4000]])
    yield "an input_shape of 4000 digits", network(input_shape=[None, 10**4000, 10**4000])
    yield (
        "a seed of 5000 digits",
        with_text(b'{"format":"definetti_np model","format_version":2,"seed":1' + b"0" * 5000),
    )

    names = [f"{i:06}" for i in range(100_000)]
    whole = zip_of([*arrays, *((name, b"") for name in names)])
    yield "100000 members", whole
    end, start = whole[-22:], struct.unpack("<I", whole[-6:-2])[0]
    size = len(whole) - 22 - start
    large = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, len(names), len(names), size, start)
    for where in (start + size, 0):
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, where, 1)
        for told in (size, 0):  # also where the two ends differ
            small = end[:12] + struct.pack("<I", told) + end[16:]
            yield f"a directory of 64 bits at {where} and {told}", whole[:-22] + large + locator + small


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_load__hostile_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_of().save("valid")
    valid = (tmp_path / "valid.npz").read_bytes()
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name, content in hostile_files(valid):
        path = folder / f"{name.replace('/', '_')}.npz"
        assert not path.exists()
        path.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    code, output = Session("-c", LOADER, folder, tmp_path / "valid.npz", OPENBLAS_NUM_THREADS="1").end()
    assert (code, output) == (0, "done\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_hostile__what_they_are_made_from_is_valid(tmp_path):
    """The same ways of making files give one that loads, so that what is refused is what was changed."""
    model_of().save(tmp_path / "valid")
    with zipfile.ZipFile(tmp_path / "valid.npz") as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    (tmp_path / "again.npz").write_bytes(zip_of(members))
    load(tmp_path / "again")


# Prints how much memory it takes at most to read a file, in bytes.
MEASURE = """
import sys
from pathlib import Path
import definetti_np.model
from definetti_np import load, ops
from definetti_np.files.checkpoint import read_checkpoint
from definetti_np.layers import Dense

def function_of(nodes):
    dense, out = Dense(nodes), Dense(2)
    return lambda x: out(ops.max(dense(x)))

def memory(name):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return 1024 * int(line.split()[1])

kind, nodes, small, large = sys.argv[1:]
read = {
    "a model": lambda path, nodes: load(path),
    "a model of a function": lambda path, nodes: load(path, network_function=function_of(nodes)),
    "a checkpoint": lambda path, nodes: read_checkpoint(Path(path)),
}[kind]
read(small, 4)  # what it imports
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak
kept = read(large, int(nodes))
print(memory("VmHWM") - before)
"""


def function_of(nodes):
    dense, out = Dense(nodes), Dense(2)
    return lambda x: out(ops.max(dense(x)))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells the peak of the memory")
@pytest.mark.parametrize("kind", ["a model", "a model of a function", "a checkpoint"])
def test_load__takes_the_memory_of_the_arrays(tmp_path, kind):
    nodes = 10_000
    for name, width in (("small", 4), ("large", nodes)):
        if kind == "a model of a function":
            network = Network.from_function((None, 1000), (2,), function_of(width), seed=1)
        else:
            network = Network((None, 1000), (2,), [("fc", width)], ("max",), [("softmax",)], seed=1)
        weights = network.flat.weights
        if kind == "a checkpoint":
            run = {"seed": 1, "batch_size": 1}
            state = Checkpoint(run, 1, 1, 1, [], {}, *(np.ones_like(weights) for _ in range(3)))
            write_checkpoint(tmp_path / f"{name}.npz", state, previous=tmp_path / "previous")
        else:
            Model(network, loss=lambda p, y: p, seed=1, batches_trained=1).save(tmp_path / name)
    large = tmp_path / "large.npz"
    assert large.stat().st_size > 4 * 1000 * nodes
    code, output = Session("-c", MEASURE, kind, nodes, tmp_path / "small.npz", large, OPENBLAS_NUM_THREADS="1").end()
    assert code == 0, output
    assert int(output) < large.stat().st_size + 2**23
