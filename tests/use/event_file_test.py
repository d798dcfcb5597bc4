"""A decoder that shares nothing with ours reads the TensorBoard events that we write."""

import os
import pathlib
import struct
import subprocess
import unittest

import formwork_case


def crc32c(data):
    """Bit by bit, as the polynomial says."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path):
    data, at = path.read_bytes(), 0
    while at < len(data):
        length, = struct.unpack_from("<Q", data, at)
        check, = struct.unpack_from("<I", data, at + 8)
        body = data[at + 12:at + 12 + length]
        body_check, = struct.unpack_from("<I", data, at + 12 + length)
        if check != masked(data[at:at + 8]) or body_check != masked(body):
            raise AssertionError(f"{path}: a checksum differs at byte {at}")
        yield body
        at += 16 + length


def varint(data, at):
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return number, at


def fields(data):
    """{field number: [values]}: integers, bytes, or floats by the wire type."""
    found, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 1:
            value, at = struct.unpack_from("<d", data, at)[0], at + 8
        elif key & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        elif key & 7 == 5:
            value, at = struct.unpack_from("<f", data, at)[0], at + 4
        else:
            raise AssertionError(f"wire type {key & 7}")
        found.setdefault(key >> 3, []).append(value)
    return found


class EventFile(formwork_case.FormworkCase):
    def test_what_a_reader_sees(self):
        tests = pathlib.Path.cwd() / "formwork_tests"
        subprocess.run([str(tests), "--gtest_filter=unit.event_file"], check=True,
                       stdout=subprocess.DEVNULL,
                       env={**os.environ, "FORMWORK_TEST_EVENTS": str(self.folder)})
        files = sorted(self.folder.iterdir())
        self.assertEqual(len(files), 2)
        events = [fields(record) for record in records(files[0])]
        self.assertEqual(events[0][3], [b"brain.Event:2"])
        for event in events:
            self.assertGreater(event[1][0], 1.5e9)
        scalars = []
        for event in events:
            for value in fields(event[5][0])[1] if 5 in event else []:
                value = fields(value)
                if 2 in value:
                    scalars.append((event[2][0], value[1][0].decode(), value[2][0]))
        self.assertEqual(scalars, [(1, "training/loss", 2.5),
                                   (1, "learning_rate", struct.unpack("<f", struct.pack("<f", 1e-3))[0]),
                                   (300, "training/loss", -0.125), (2 ** 40, "training/loss", 0.0)])
        texts = []
        for event in events:
            for value in fields(event[5][0])[1] if 5 in event else []:
                value = fields(value)
                if 8 not in value:
                    continue
                tensor, metadata = fields(value[8][0]), fields(value[9][0])
                self.assertEqual(tensor[1], [7])  # DT_STRING
                self.assertEqual(fields(fields(tensor[2][0])[2][0])[1], [1])
                self.assertEqual(fields(metadata[1][0])[1], [b"text"])
                texts.append((event[2][0], value[1][0].decode(), tensor[8][0].decode()))
        self.assertEqual(texts, [(0, "recipe", "    [task]\n    kind = \"naïve\"\n"), (2, "long", "x" * 300)])
        resumed = [fields(record) for record in records(files[1])]
        self.assertEqual(resumed[1][2], [301])
        self.assertEqual(fields(resumed[1][7][0])[1], [1])  # SessionLog.START


if __name__ == "__main__":
    formwork_case.main()
