# SPDX-License-Identifier: Apache-2.0
"""Writes one small PyTorch archive for each pickle protocol that torch.save can be told to use, with Python's own pickler. torch itself
is not needed: functions and classes of its names are pickled by reference.

    python3 make_protocols.py    writes protocol-2.bin to protocol-5.bin here
"""
import collections, io, os, pickle, struct, sys, types, zipfile

torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
sys.modules.update({"torch": torch, "torch._utils": utils})


def _rebuild_tensor_v2(*args): pass
def _rebuild_parameter(*args): pass


for f in (_rebuild_tensor_v2, _rebuild_parameter): f.__module__ = "torch._utils"; setattr(utils, f.__name__, f)
for name in ("HalfStorage", "FloatStorage"): setattr(torch, name, type(name, (), {"__module__": "torch"}))


class Storage:
    def __init__(self, kind, key, numel): self.id = ("storage", kind, key, "cpu", numel)


class Call:
    def __init__(self, function, *args): self.call = (function, args)
    def __reduce__(self): return self.call


class Pickler(pickle.Pickler):
    def persistent_id(self, o): return o.id if isinstance(o, Storage) else None


def tensor(storage, first, shape, strides): return Call(_rebuild_tensor_v2, storage, first, shape, strides, False, collections.OrderedDict())


half, single = Storage(torch.HalfStorage, "0", 6), Storage(torch.FloatStorage, "1", 300)
state = collections.OrderedDict([
    ("weight", tensor(half, 0, (2, 3), (3, 1))),
    ("transposed", tensor(half, 0, (3, 2), (1, 3))),
    ("parameter", Call(_rebuild_parameter, tensor(single, 200, (100,), (1,)), True, collections.OrderedDict())),
    ("steps", 1 << 40), ("rate", 0.5), ("note", "caf\u00e9"), ("raw", b"bytes"), ("names", {"a", "b"}), ("nothing", None), ("flags", [True, False])])
for protocol in range(2, 6):
    out = io.BytesIO()
    Pickler(out, protocol).dump(state)
    with zipfile.ZipFile(f"{os.path.dirname(os.path.abspath(__file__))}/protocol-{protocol}.bin", "w") as z:
        z.writestr(zipfile.ZipInfo("archive/data.pkl"), out.getvalue())
        z.writestr(zipfile.ZipInfo("archive/data/0"), struct.pack("<6e", *range(6)))
        z.writestr(zipfile.ZipInfo("archive/data/1"), struct.pack("<300f", *range(300)))
