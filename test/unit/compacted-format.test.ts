/** Compacted segments: FORMAT.md's table, and what a reader refuses. */
import { describe, expect, test } from '@jest/globals';
import { readSegment } from '../../core/archive/chain.ts';
import { decodeCompacted, sealCompacted } from '../../core/archive/compacted.ts';
import { mergedHeader } from '../../core/archive/merge.ts';
import { openObject } from '../../core/archive/object.ts';
import { openBody, sealBody } from '../../core/archive/segment.ts';
import { archive, madeSource, withStore } from '../made/archive.ts';
import { explain, numberOf } from '../made/format-tables.ts';
import { makeSample } from '../made/sample.ts';

/** The object of segments 3 to 5 of the sample, envelope off. */
async function made() {
  let result: { content: Buffer; headers: number[]; raw: Buffer; sha256: Buffer } | null = null;
  await withStore(async (store) => {
    await archive(store, makeSample().chain.folded, 1500);
    const read = [];
    for (const sequence of [3, 4, 5]) {
      const segment = await readSegment(store, madeSource, sequence);
      if (segment === null) throw new Error(`no segment ${sequence}`);
      read.push(segment);
    }
    const sealed = await sealBody(read.map(({ raw }) => raw));
    const run = read.map(({ decoded }) => decoded);
    const last = run[2];
    if (last === undefined) throw new Error('no run');
    const { body } = sealCompacted(mergedHeader(run, sealed), sealed.stored, 3, last);
    result = {
      content: openObject(Buffer.concat(body), 'compacted', 'x'),
      headers: run.map(({ bytes }) => bytes.length),
      raw: Buffer.concat(read.map(({ raw }) => raw)),
      sha256: last.sha256,
    };
  });
  if (result === null) throw new Error('nothing was made');
  return result as { content: Buffer; headers: number[]; raw: Buffer; sha256: Buffer };
}

describe('compacted segments', () => {
  test('stand as their table says', async () => {
    const { content, raw, sha256 } = await made();
    const { header, bytes } = decodeCompacted(content, 'x');
    const fields = explain('compacted', content, { headerBytes: bytes.length, storedBytes: header.storedBytes });
    expect(fields.get('magic')?.toString()).toBe('QZCP');
    expect([numberOf(fields.get('version')), numberOf(fields.get('first')), header.sequence]).toEqual([1, 3, 5]);
    expect(fields.get('lastSha256')).toEqual(sha256);
    expect(fields.get('header')).toEqual(bytes);
    const body = await openBody(header, fields.get('body') ?? Buffer.alloc(0), 'x');
    expect(body.equals(raw)).toBe(true);
  });

  test('whatever is cut off or flipped in front of the body is refused', async () => {
    const { content } = await made();
    const { bytes } = decodeCompacted(content, 'x');
    const end = 48 + bytes.length;
    for (let length = 0; length < end; length += 7)
      expect(() => decodeCompacted(content.subarray(0, length), 'x')).toThrow(/x is damaged/);
    for (let at = 0; at < end; at += 1) {
      // The hash that the next segment carries: a wrong one breaks the link to it.
      if (at >= 16 && at < 48) continue;
      const flipped = Buffer.from(content);
      flipped.writeUInt8(flipped.readUInt8(at) ^ 0x40, at);
      const decoded = () => decodeCompacted(flipped, 'x');
      // The first sequence has no sum of its own: the name of the object has to say the same.
      if (at >= 8 && at < 16 && !throws(decoded)) expect(decoded().compactedFrom).not.toBe(3);
      else expect(decoded).toThrow();
    }
  });
});

function throws(work: () => unknown): boolean {
  try {
    work();
    return false;
  } catch {
    return true;
  }
}
