"""Packs and reads frames of the socket protocol by hand, from the schema alone. So tests can pack wrong ones, too."""

from __future__ import annotations

import pathlib
import re
import struct

SCHEMA = pathlib.Path(__file__).parents[2] / "include/muster/ipc/wire.fbs"

_FORMATS = {"ulong": "<Q", "long": "<q", "uint": "<I", "int": "<i", "ushort": "<H", "ubyte": "<B", "bool": "<?"}
_FORMATS |= {"double": "<d"}
_IDENTIFIER = b"MSTR"
_FRAME_SLOTS = 3  # request, the body's type, the body


def _read_schema() -> tuple[dict[str, dict[str, str]], list[str]]:
    """Returns tables and structs by name (each maps field names to types), and the bodies of the union, NONE first."""
    text = re.sub(r"//.*", "", SCHEMA.read_text())
    tables = {}
    for name, fields in re.findall(r"(?:table|struct) (\w+) \{(.*?)\}", text, re.DOTALL):
        tables[name] = dict(re.findall(r"(\w+):(\[?\w+\]?)", fields))
    union = re.search(r"union Body \{(.*?)\}", text, re.DOTALL).group(1)
    return tables, ["NONE", *re.findall(r"\w+", union)]


TABLES, BODIES = _read_schema()


class _Packer:
    """Writes front to back: a vtable, then its table with 8 bytes for each field, then what the fields point to."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0\0\0\0" + _IDENTIFIER)

    def point(self, at: int, target: int) -> None:
        struct.pack_into("<I", self.data, at, target - at)

    def table(self, fields: list[bytes | None]) -> tuple[int, list[int]]:
        """Returns the offsets of the table and of each field."""
        offsets = [4 + 8 * i if field is not None else 0 for i, field in enumerate(fields)]
        vtable = struct.pack(f"<HH{len(fields)}H", 4 + 2 * len(fields), 4 + 8 * len(fields), *offsets)
        self.data += b"\0" * (-(len(self.data) + len(vtable) + 4) % 8)
        vtable_at = len(self.data)
        self.data += vtable
        table_at = len(self.data)
        self.data += struct.pack("<i", table_at - vtable_at)
        for field in fields:
            self.data += (field or b"").ljust(8, b"\0")
        return table_at, [table_at + offset for offset in offsets]

    def vector(self, items: bytes) -> int:
        at = len(self.data)
        self.data += struct.pack("<I", len(items)) + items + b"\0"
        self.data += b"\0" * (-len(self.data) % 8)
        return at


def _scalar(kind: str, value) -> bytes:
    return struct.pack(_FORMATS[kind], value)


def frame(body: str, request: int = 1, /, **values) -> bytes:
    """Packs a frame with such a body; fields that aren't given keep their defaults."""
    packer = _Packer()
    root, places = packer.table([struct.pack("<Q", request), bytes([BODIES.index(body)]), b""])
    packer.point(0, root)
    schema = TABLES[body]
    assert values.keys() <= schema.keys(), values
    fields: list[bytes | None] = []
    for name, kind in schema.items():
        value = values.get(name)
        if value is None:
            fields.append(None)
        elif kind in _FORMATS:
            fields.append(_scalar(kind, value))
        else:
            fields.append(struct.pack("<QQ", *value) if kind == "Capability" else b"")
    wide = [i for i, field in enumerate(fields) if field is not None and len(field) > 8]
    assert all(i == len(fields) - 1 for i in wide), "a struct comes last here"
    body_at, body_places = packer.table(fields)
    packer.point(places[2], body_at)
    for (name, kind), place in zip(schema.items(), body_places):
        if values.get(name) is None or kind in _FORMATS or kind == "Capability":
            continue
        items = values[name].encode() if isinstance(values[name], str) else bytes(values[name])
        packer.point(place, packer.vector(items))
    return bytes(packer.data)


class Table:
    """Reads a table of the schema; fields by name."""

    def __init__(self, data: bytes, at: int, name: str) -> None:
        self.data, self.at, self.name = data, at, name

    def _place(self, slot: int) -> int:
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        size = struct.unpack_from("<H", self.data, vtable)[0]
        if 4 + 2 * slot >= size:
            return 0
        offset = struct.unpack_from("<H", self.data, vtable + 4 + 2 * slot)[0]
        return self.at + offset if offset else 0

    def _follow(self, place: int) -> int:
        return place + struct.unpack_from("<I", self.data, place)[0]

    def __getattr__(self, field: str):
        kinds = list(TABLES[self.name].items())
        slot = [name for name, _ in kinds].index(field)
        kind, place = kinds[slot][1], self._place(slot)
        if kind in _FORMATS:
            return struct.unpack_from(_FORMATS[kind], self.data, place)[0] if place else 0
        if not place:
            return None
        if kind == "Capability":
            return struct.unpack_from("<QQ", self.data, place)
        return self._vector(kind, self._follow(place))

    def _vector(self, kind: str, at: int):
        count = struct.unpack_from("<I", self.data, at)[0]
        if kind == "string":
            return self.data[at + 4 : at + 4 + count].decode()
        item = kind.strip("[]")
        if item == "ubyte":
            return self.data[at + 4 : at + 4 + count]
        if item in _FORMATS:
            return list(struct.unpack_from(f"<{count}{_FORMATS[item][1:]}", self.data, at + 4))
        return [Table(self.data, self._follow(at + 4 + 4 * i), item) for i in range(count)]


def read_frame(data: bytes) -> tuple[int, Table]:
    """Returns the request that the frame answers, and the frame's body."""
    root = Table(data, struct.unpack_from("<I", data, 0)[0], "Frame")
    places = [root._place(slot) for slot in range(_FRAME_SLOTS)]
    request = struct.unpack_from("<Q", data, places[0])[0] if places[0] else 0
    return request, Table(data, root._follow(places[2]), BODIES[data[places[1]]])
