/**
 * Where a zstd frame ends, by its headers alone (RFC 8878, section 3.1.1): a decompressor stops at the end of the content, and says
 * nothing of what stands behind it.
 */
const magic = 0xfd2fb528;
const blockTypes = { raw: 0, rle: 1, compressed: 2 } as const;
const contentSizeBytes = [0, 2, 4, 8];
const dictionaryIdBytes = [0, 1, 2, 4];

/** One past the frame's last byte; null where `bytes` do not begin with a whole frame. */
export function zstdFrameEnd(bytes: Buffer): number | null {
  if (bytes.length < 6 || bytes.readUInt32LE(0) !== magic) return null;
  const descriptor = bytes.readUInt8(4);
  const isSingle = (descriptor & 0x20) !== 0;
  // Unused and reserved.
  if ((descriptor & 0x18) !== 0) return null;
  const sizeCode = descriptor >> 6;
  const sizeBytes = sizeCode === 0 && isSingle ? 1 : (contentSizeBytes[sizeCode] ?? 0);
  let at = 5 + (isSingle ? 0 : 1) + (dictionaryIdBytes[descriptor & 3] ?? 0) + sizeBytes;
  for (;;) {
    if (at + 3 > bytes.length) return null;
    const header = bytes.readUIntLE(at, 3);
    const [isLast, type, size] = [(header & 1) !== 0, (header >> 1) & 3, header >> 3];
    if (type > blockTypes.compressed) return null;
    at += 3 + (type === blockTypes.rle ? 1 : size);
    if (at > bytes.length) return null;
    if (isLast) break;
  }
  const end = at + ((descriptor & 0x04) === 0 ? 0 : 4);
  return end > bytes.length ? null : end;
}
