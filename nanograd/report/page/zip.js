// A ZIP file of uncompressed files. Reference: PKWARE, "APPNOTE.TXT", 4.3.

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});

function crc32(bytes) {
  let rest = 0xffffffff;
  for (const byte of bytes) rest = CRC_TABLE[(rest ^ byte) & 255] ^ (rest >>> 8);
  return (rest ^ 0xffffffff) >>> 0;
}

// Numbers as little-endian bytes: [value, number of bytes] each.
function packedNumbers(pairs) {
  return Uint8Array.from(
    pairs.flatMap(([value, size]) =>
      Array.from({ length: size }, (_, byte) => Math.floor(value / 256 ** byte) % 256),
    ),
  );
}

// Convert [{name, bytes}] to the bytes of a ZIP file; names are ASCII, all dates 1980-01-01.
function zip(files) {
  const parts = [], index = [];
  let offset = 0;
  for (const { name, bytes } of files) {
    const letters = new TextEncoder().encode(name);
    const about = [
      [20, 2], [0, 2], [0, 2], [0, 2], [33, 2], [crc32(bytes), 4], [bytes.length, 4],
      [bytes.length, 4], [letters.length, 2], [0, 2],
    ];
    const local = packedNumbers([[0x04034b50, 4], ...about]);
    index.push(
      packedNumbers([[0x02014b50, 4], [20, 2], ...about, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]]),
      letters,
    );
    parts.push(local, letters, bytes);
    offset += local.length + letters.length + bytes.length;
  }
  const size = index.reduce((all, each) => all + each.length, 0);
  const end = [[0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4]];
  const all = [...parts, ...index, packedNumbers([...end, [offset, 4], [0, 2]])];
  const out = new Uint8Array(all.reduce((sum, each) => sum + each.length, 0));
  let place = 0;
  for (const each of all) {
    out.set(each, place);
    place += each.length;
  }
  return out;
}
