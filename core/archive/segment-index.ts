/**
 * Index objects: the headers of a block of consecutive segments in one object, so that opening a month of history reads
 * thousands of objects less. Derived data: what it says is verified by the headers' hash chain, and can be made again.
 */
import { hash } from 'node:crypto';
import { openZstdFrame, zstdFrame } from '../bytes/zstd.ts';
import { openObject, sealObject } from './object.ts';
import { type DecodedHeader, damaged, decodeSegmentHeader } from './segment.ts';

export const indexMagic = 'QZSI';
export const indexVersion = 1;
export const indexFixedBytes = 64;
const zstdLevel = 3;
const rawBytesMax = 256 * 1024 * 1024;

/** The parts of an index object over consecutive headers. */
export async function sealIndex(block: readonly DecodedHeader[]): Promise<Uint8Array[]> {
  const raw = Buffer.concat(block.map((one) => one.bytes));
  if (raw.length > rawBytesMax) throw new Error(`an index of ${raw.length} bytes was asked for`);
  const stored = await zstdFrame(raw, zstdLevel);
  const fixed = Buffer.alloc(indexFixedBytes);
  fixed.write(indexMagic, 0, 'latin1');
  fixed.writeUInt16LE(indexVersion, 4);
  fixed.writeUInt32LE(block.length, 8);
  fixed.writeUInt32LE(raw.length, 12);
  fixed.writeBigUInt64LE(BigInt(block[0]?.header.sequence ?? 0), 16);
  hash('sha256', raw, 'buffer').copy(fixed, 32);
  return sealObject('segmentIndex', [fixed, stored]);
}

/** The headers, in order. Throws QZ3405 naming `object` when anything about it is wrong. */
export async function openIndex(bytes: Buffer, object: string): Promise<DecodedHeader[]> {
  const content = openObject(bytes, 'segmentIndex', object);
  if (content.length < indexFixedBytes) throw damaged(object, 'it ends inside its header');
  if (content.toString('latin1', 0, 4) !== indexMagic || content.readUInt16LE(4) !== indexVersion) {
    throw damaged(object, 'it does not begin as an index of this version');
  }
  const reserved = [...content.subarray(6, 8), ...content.subarray(24, 32)];
  if (reserved.some((byte) => byte !== 0)) throw damaged(object, 'its reserved bytes are not zero');
  const count = content.readUInt32LE(8);
  const rawBytes = content.readUInt32LE(12);
  const first = Number(content.readBigUInt64LE(16));
  if (rawBytes > rawBytesMax) throw damaged(object, 'its length is out of bounds');
  const raw = await decompress(content.subarray(indexFixedBytes), rawBytes, object);
  const sha256 = content.subarray(32, indexFixedBytes);
  if (raw.length !== rawBytes || !hash('sha256', raw, 'buffer').equals(sha256)) {
    throw damaged(object, 'its headers do not fit their SHA-256');
  }
  const block: DecodedHeader[] = [];
  for (let at = 0; at < raw.length; at += block.at(-1)?.bytes.length ?? raw.length) {
    const decoded = decodeSegmentHeader(raw.subarray(at), object);
    if (decoded.header.sequence !== first + block.length) throw damaged(object, 'its headers are not consecutive');
    block.push(decoded);
  }
  if (block.length !== count) throw damaged(object, `it holds ${block.length} headers, not ${count}`);
  return block;
}

async function decompress(stored: Buffer, rawBytes: number, object: string): Promise<Buffer> {
  try {
    return await openZstdFrame(stored, rawBytes);
  } catch (error) {
    throw damaged(object, 'its headers cannot be decompressed', error);
  }
}
