"""MetaImages that lie or are damaged: T2W in PI-CAI's form of an archive."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.reliability.corpus.member import IMAGES, BrokenCase, GoodCase
from tests.zssmnet.examinations import PICAI, Archive, noise

END = b"ElementDataFile = LOCAL\n"


def case_id_of(number: int) -> str:
    return f"{20000 + number}_{2000000 + number}"


def file(archive: Archive, case_id: str) -> Path:
    return archive.root / "images" / case_id.split("_")[0] / f"{case_id}{PICAI[0]}"


def changed(change: Callable[[bytes], bytes]) -> Callable[[Archive, str], object]:
    def make(archive: Archive, case_id: str) -> None:
        path = file(archive, case_id)
        path.write_bytes(change(path.read_bytes()))

    return make


def field(name: str, value: str) -> Callable[[bytes], bytes]:
    """Another value of a field, or a further field."""

    def change(content: bytes) -> bytes:
        head, _, voxels = content.partition(END)
        lines = [line for line in head.splitlines(keepends=True) if not line.startswith(f"{name} ".encode())]
        last = b"" if name == "ElementDataFile" else END
        return b"".join([*lines, f"{name} = {value}\n".encode(), last, voxels])

    return change


def twice(name: str, value: str) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(END, f"{name} = {value}\n".encode() + END)


def plain(content: bytes) -> bytes:
    head, _, voxels = content.partition(END)
    head = b"".join(line for line in head.splitlines(keepends=True) if not line.startswith(b"CompressedData"))
    return head + b"CompressedData = False\n" + END + zlib.decompress(voxels)


def bomb(content: bytes) -> bytes:
    """Gigabytes of zeros in a few megabytes; the compressed size is true."""
    compressor = zlib.compressobj(9)
    first = compressor.compress(bytes(2**24)) + compressor.flush(zlib.Z_FULL_FLUSH)
    again = compressor.compress(bytes(2**24)) + compressor.flush(zlib.Z_FULL_FLUSH)
    voxels = first + again * 255 + compressor.flush()
    head, _, _ = field("CompressedDataSize", str(len(voxels)))(content).partition(END)
    return head + END + voxels


def elsewhere(archive: Archive, case_id: str) -> None:
    """The voxels are to come from another file, which has as many bytes as are asked for."""
    other = archive.root / f"{case_id}.raw"
    other.write_bytes(noise(99).tobytes())
    changed(lambda content: field("ElementDataFile", str(other))(plain(content)))(archive, case_id)


def other_file(value: str) -> tuple[str, str, Callable[[bytes], bytes]]:
    return f"voxels in {value}", r"its voxels are said to lie in '.+LOCAL\) is needed", field("ElementDataFile", value)


FIELDS: dict[str, list[tuple[str, str, Callable[[bytes], bytes]]]] = {
    "MetaImage, voxels in another file": [
        other_file(value)
        for value in ("/etc/passwd", "../../secret.raw", "LIST", "LIST 2", "slice%03d.raw 1 8 1", "s3://bucket/x")
    ],
    "MetaImage, compressed size": [
        *(
            (f"compressed size {size}", f"bytes of compressed voxels, CompressedDataSize {size}", made)
            for size in ("0", "10", "-1", "x", "9" * 12, "9" * 25)
            for made in [field("CompressedDataSize", size)]
        ),
        (
            "compressed in name only",
            "bytes of voxels, not|truncated or damaged: .*(incorrect header|unsupported compress method)",
            lambda c: field("CompressedData", "True")(plain(c)),
        ),
        ("not compressed in name", "is truncated: it holds", field("CompressedData", "False")),
        ("compressed perhaps", "CompressedData = perhaps; expected true or false", field("CompressedData", "perhaps")),
    ],
    "MetaImage, dimensions that cannot be": [
        ("NDims 0", "has 0 dimensions", field("NDims", "0")),
        ("NDims negative", "has -3 dimensions", field("NDims", "-3")),
        ("NDims of a thousand million", "has 1000000000 dimensions", field("NDims", "1000000000")),
        ("NDims 3.5", "has 3.5 dimensions", field("NDims", "3.5")),
        ("NDims text", "NDims is 'three'", field("NDims", "three")),
        ("NDims 2", "DimSize is '24 20 8'", field("NDims", "2")),
        ("DimSize of two", "DimSize is '24 20'", field("DimSize", "24 20")),
        ("DimSize with a fraction", "DimSize is 24.5 20 8", field("DimSize", "24.5 20 8")),
        ("DimSize 0", r"asks for \(0, 20, 8\) voxels", field("DimSize", "0 20 8")),
        ("DimSize smaller", "bytes of voxels, not", field("DimSize", "24 20 7")),
        ("DimSize larger", "is truncated: it holds 7680 bytes of voxels, not 8640", field("DimSize", "24 20 9")),
        ("DimSize twice", "gives DimSize twice", twice("DimSize", "4 4 4")),
    ],
    "headers that ask for far too much": [
        ("100,000 voxels each", r"asks for \(100000, 100000, 100000\) voxels", field("DimSize", "100000 " * 3)),
        ("4294967320 voxels", "asks for .* voxels", field("DimSize", "4294967320 20 8")),
        ("1e18 voxels", "asks for .* voxels", field("DimSize", "1" + "0" * 18 + " 20 8")),
        ("1e9 values a voxel", "has 1000000000 values a voxel", field("ElementNumberOfChannels", "1000000000")),
    ],
    "MetaImage, type of the voxels": [
        ("type unknown", "is no readable image", field("ElementType", "MET_STRANGE")),
        ("type double", "is truncated: it holds 7680 bytes of voxels, not 30720", field("ElementType", "MET_DOUBLE")),
        ("type text", "bytes of voxels, not", field("ElementType", "MET_STRING")),
        ("voxels as text", "BinaryData = False; expected true", field("BinaryData", "False")),
        ("two values a voxel", "has 2 values a voxel", field("ElementNumberOfChannels", "2")),
        (
            "two byte orders",
            "BinaryDataByteOrderMSB and ElementByteOrderMSB differ",
            field("ElementByteOrderMSB", "True"),
        ),
        ("skipped bytes", "HeaderSize = 10; expected 0", field("HeaderSize", "10")),
        ("scaled values", "IntensityFunctionSlope = 2", field("ElementToIntensityFunctionSlope", "2")),
    ],
    "spacing: zero, negative, huge, no number": [
        ("MHA spacing 0", r"has the spacing \(0.0, 0.55", field("ElementSpacing", "0 0.55 3.3")),
        ("MHA spacing negative", r"has the spacing \(-0.6, 0.55", field("ElementSpacing", "-0.6 0.55 3.3")),
        ("MHA spacing huge", "has the spacing", field("ElementSpacing", "0.6 1e8 3.3")),
        ("MHA spacing NaN", "ElementSpacing is 'nan 0.55 3.3'", field("ElementSpacing", "nan 0.55 3.3")),
        ("MHA spacing of text", "ElementSpacing is 'wide'", field("ElementSpacing", "wide")),
        ("MHA spacing in cm", "DistanceUnits = cm; expected mm", field("DistanceUnits", "cm")),
    ],
    "direction: singular, sheared, no number": [
        ("MHA direction singular", "axes that are not at right angles", field("TransformMatrix", "0 " * 9)),
        ("MHA direction sheared", "not at right angles", field("TransformMatrix", "1 0.5 0 0 1 0 0 0 1")),
        ("MHA direction too long", "not at right angles", field("TransformMatrix", "2 0 0 0 1 0 0 0 1")),
        ("MHA direction NaN", "TransformMatrix is 'nan", field("TransformMatrix", "nan 0 0 0 1 0 0 0 1")),
        ("MHA direction of three", "TransformMatrix is '1 0 0'", field("TransformMatrix", "1 0 0")),
    ],
    "origin: no number, far away": [
        ("MHA origin NaN", "Offset is 'nan 1 2'", field("Offset", "nan 1 2")),
        ("MHA origin far away", r"has the origin \(1e\+300", field("Offset", "1e300 1 2")),
    ],
    "MetaImage, cut, flipped or foreign bytes": [
        ("MHA empty", "is neither a NIfTI nor a MetaImage file", lambda content: b""),
        ("MHA cut in its header", "its header has no end", lambda content: content[:100]),
        ("MHA cut", "bytes of compressed voxels", lambda content: content[:-1]),
        ("MHA, one bit", "is truncated or damaged", lambda c: c[:-3000] + bytes([c[-3000] ^ 1]) + c[-2999:]),
        ("MHA, a checksum", "is truncated or damaged", lambda c: c[:-1] + bytes([c[-1] ^ 1])),
        (
            "MHA, an endless line",
            "its header has no end",
            lambda c: c.replace(b"NDims", b"Comment = " + b"x" * 2**17, 1),
        ),
        ("MHA, a line of junk", "its header has the line", lambda c: c.replace(b"NDims", b"\x00\xff\nNDims", 1)),
    ],
    "compressed gigabytes": [("MHA, a bomb", "bytes of voxels, not 7680", bomb)],
}


def broken_cases() -> Iterator[tuple[str, BrokenCase]]:
    """What is wrong, and the case; PI-CAI's ids are numbers."""
    members = [(fault, *member) for fault, group in FIELDS.items() for member in group]
    for number, (fault, name, says, change) in enumerate(members):
        yield name, BrokenCase(case_id_of(number), IMAGES, fault, says, changed(change))
    says = r"its voxels are said to lie in '/.+\.raw'"
    other = BrokenCase(case_id_of(len(members)), IMAGES, "MetaImage, voxels in another file", says, elsewhere)
    yield "voxels in a file that is there", other


def good_cases() -> Iterator[tuple[str, GoodCase]]:
    """Odd headers that say the right thing."""
    for number, (name, change) in enumerate(
        {
            "not compressed": plain,
            "local in small letters": field("ElementDataFile", "local"),
            "lines that end as in DOS": lambda c: (
                c.partition(END)[0].replace(b"\n", b"\r\n") + END + c.partition(END)[2]
            ),
            "colons": lambda content: content.replace(b"Offset =", b"Offset :"),
            "fields of DICOM": twice("0010|0010", "Łódź = 前"),
        }.items()
    ):
        yield name, GoodCase(case_id_of(500 + number), IMAGES, "odd, and prepared right", changed(change))
