# SPDX-License-Identifier: Apache-2.0
"""Reads checkpoints a second, independent way (Python's own zipfile, pickle and json) and writes what is in them: for each folder and
tensor the dtype, the shape and the CRC-32 of its elements in row-major order. The tests hold the C++ readers to it.

    python3 make_tensors.py FOLDER... > tensors.json
"""
import collections, glob, io, json, os, pickle, struct, sys, zipfile, zlib

SIZE = {"f32": 4, "f16": 2, "bf16": 2}
CLASS = {"FloatStorage": "f32", "HalfStorage": "f16", "BFloat16Storage": "bf16"}


class Loader(pickle.Unpickler):
    """Storages stay their ids; a tensor becomes (id, first, shape, strides)."""
    def __init__(self, f): super().__init__(f); self.ids = []
    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"): return collections.OrderedDict
        if module == "torch" and name in CLASS: return CLASS[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"): return lambda s, first, shape, strides, *_: (s, first, shape, strides)
        raise ValueError(f"{module}.{name}")
    def persistent_load(self, pid): self.ids.append(pid); return pid


def safetensors(path):
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8)); header = json.loads(f.read(n)); data = f.read()
    for name, t in header.items():
        if name != "__metadata__": yield name, t["dtype"].lower(), t["shape"], data[t["data_offsets"][0]:t["data_offsets"][1]]


def gather(storages, tensor):
    (_, kind, key, *_), first, shape, strides = tensor
    size, out = SIZE[kind], bytearray()
    rows, cols = (shape[0] if shape else 1), (shape[1] if len(shape) == 2 else 1)
    rs, cs = (strides[0] if strides else 1), (strides[1] if len(strides) == 2 else 1)
    for r in range(rows):
        for c in range(cols):
            at = (first + r * rs + c * cs) * size
            out += storages[key][at:at + size]
    return kind, list(shape), bytes(out)


def torch_file(path):
    if zipfile.is_zipfile(path):
        z = zipfile.ZipFile(path); root = z.namelist()[0].split("/")[0]
        tensors = Loader(io.BytesIO(z.read(f"{root}/data.pkl"))).load()
        storages = {n.split("/")[-1]: z.read(n) for n in z.namelist() if n.startswith(f"{root}/data/")}
    else:
        with open(path, "rb") as f:
            for _ in range(3): pickle.load(f)
            loader = Loader(f); tensors = loader.load(); kinds = {i[2]: i[1] for i in loader.ids}; storages = {}
            for key in pickle.load(f):
                n, = struct.unpack("<q", f.read(8)); storages[key] = f.read(n * SIZE[kinds[key]])
    for name, t in tensors.items(): yield (name, *gather(storages, t))


def main(folders):
    out = {}
    for folder in folders:
        tensors = {}
        for path in sorted(glob.glob(f"{folder}/model*.safetensors")) + sorted(glob.glob(f"{folder}/pytorch_model*.bin")):
            for name, kind, shape, data in (safetensors if path.endswith(".safetensors") else torch_file)(path):
                tensors[name] = [kind, shape, zlib.crc32(data)]
        out[os.path.basename(os.path.normpath(folder))] = dict(sorted(tensors.items()))
    print("{" + ",\n".join(f' "{f}": {{\n' + ",\n".join(f'  "{n}": {json.dumps(t)}' for n, t in ts.items()) + "}" for f, ts in out.items()) + "}")


main(sys.argv[1:])
