import { createHash } from 'node:crypto';
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { chunkBytes } from '../../core/chunks/chunk.ts';
import { ChunkRows, noPack } from '../../core/chunks/chunk-list.ts';
import { QazynaError } from '../../core/errors/error.ts';
import {
  decodeComplete,
  decodeManifest,
  encodeComplete,
  encodeManifest,
  manifestHeaderBytes,
} from '../../core/snapshot/codec.ts';
import { newSnapshotId } from '../../core/snapshot/manifest.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';
import { explain, numberOf } from '../made/format-tables.ts';

const uuid = '59bece67-e727-11f1-b426-02fc00000001';
/** What manifest and mark say in common, in that order. */
const names = [
  'id',
  'source',
  'engine',
  'generation',
  'sourceUuid',
  'gtidsBefore',
  'gtidsAfter',
  'startedMicros',
  'finishedMicros',
  'serverVersion',
];
const idOf = (text: string) => createHash('sha256').update(text).digest('hex');

/** `sizes` of the files; a chunk of zeros now and then, and packs of which one is used by nobody. */
function aManifest(sizes: readonly number[], extra: Partial<SnapshotManifest> = {}): SnapshotManifest {
  const packs = ['unused', 'a', 'b'].map(idOf);
  const rows = new ChunkRows();
  const spans = sizes.map((sizeBytes) => {
    const first = rows.count;
    for (let at = 0; at < sizeBytes; at += chunkBytes) {
      const plainBytes = Math.min(chunkBytes, sizeBytes - at);
      const hash = createHash('sha256').update(`${sizeBytes} ${at}`).digest();
      if (rows.count % 5 === 4) rows.push(null, noPack, 0, 0, plainBytes);
      else rows.push(hash, 1 + (rows.count % 2), rows.count * 7, Math.min(plainBytes, 99), plainBytes);
    }
    return { sizeBytes, first, last: rows.count };
  });
  return {
    id: newSnapshotId(0),
    source: 'agama',
    engine: 'clone',
    generation: 3,
    sourceUuid: uuid,
    gtidsBefore: GtidSet.parse(`${uuid}:1-5`),
    gtidsAfter: GtidSet.parse(`${uuid}:1-7`),
    startedMicros: 1_763_892_900_123_456,
    finishedMicros: 1_763_892_901_123_456,
    serverVersion: '9.7.4-2',
    settings: { innodb_page_size: '16384' },
    columns: { 'agama.item': ['id', 'value', 'state'] },
    directories: [{ path: 'agama', mode: 0o750 }],
    files: spans.map(({ sizeBytes, first, last }, index) => {
      return { path: `agama/t${index}.ibd`, sizeBytes, mode: 0o640, chunks: rows.list(first, last, packs) };
    }),
    ...extra,
  };
}

function plainOf(manifest: SnapshotManifest) {
  const files = manifest.files.map((file) => ({ ...file, chunks: [...file.chunks] }));
  return { ...manifest, gtidsBefore: String(manifest.gtidsBefore), gtidsAfter: String(manifest.gtidsAfter), files };
}

function codeOf(work: () => unknown): string {
  try {
    work();
    return 'no error';
  } catch (error) {
    return error instanceof QazynaError ? error.code : String(error);
  }
}

/** A manifest with what it says about the snapshot changed, and every length and sum right again. */
function withMeta(bytes: Buffer, change: (text: string) => string): Buffer {
  const end = manifestHeaderBytes + bytes.readUInt32LE(8);
  const text = change(zstdDecompressSync(bytes.subarray(manifestHeaderBytes, end)).toString());
  const header = Buffer.from(bytes.subarray(0, manifestHeaderBytes));
  const meta = zstdCompressSync(Buffer.from(text));
  header.writeUInt32LE(meta.length, 8);
  header.writeUInt32LE(Buffer.byteLength(text), 12);
  const body = Buffer.concat([header, meta, bytes.subarray(end, -32)]);
  return Buffer.concat([body, createHash('sha256').update(body).digest()]);
}

const flip = (bytes: Buffer, bit: number) => {
  const flipped = Buffer.from(bytes);
  flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
  return flipped;
};

describe('the manifest', () => {
  test('comes back as it was, whatever the sizes of its files', () => {
    const size = fc.oneof(fc.constantFrom(0, 1, chunkBytes - 1, chunkBytes, chunkBytes + 1), fc.nat(8 * chunkBytes));
    const variable = fc.string().filter((name) => name !== '__proto__'); // no server has one of that name
    const anySettings = fc.dictionary(variable, fc.string());
    fc.assert(
      fc.property(fc.array(size, { maxLength: 8 }), anySettings, (sizes, settings) => {
        const manifest = aManifest(sizes, { settings });
        expect(plainOf(decodeManifest(Buffer.concat(encodeManifest(manifest)), 'm'))).toEqual(plainOf(manifest));
      }),
      { numRuns: 50 },
    );
  });

  test('of a standby also says how its events stand', () => {
    const statuses = { 'shop.tick': 'ENABLED', 'shop.tock': 'DISABLED' } as const;
    const manifest = aManifest([1], { events: { gtids: `${uuid}:1-6`, statuses } });
    const bytes = Buffer.concat(encodeManifest(manifest));
    expect(plainOf(decodeManifest(bytes, 'm'))).toEqual(plainOf(manifest));
    const wrong = withMeta(bytes, (text) => text.replace('"DISABLED"', '"ASLEEP"'));
    expect(codeOf(() => decodeManifest(wrong, 'm'))).toBe('QZ3506');
  });

  test('stands as its table says', () => {
    const manifest = aManifest([1, 5 * chunkBytes]);
    const bytes = Buffer.concat(encodeManifest(manifest));
    const fields = explain('snapshot-manifest', bytes, { packTableBytes: 2 * 32, chunkTableBytes: 6 * 48 });
    expect(fields.get('magic')?.toString()).toBe('QZMF');
    expect(['version', 'packs', 'chunks'].map((name) => numberOf(fields.get(name)))).toEqual([1, 2, 6]);
    const text = zstdDecompressSync(fields.get('meta') ?? Buffer.alloc(0));
    expect(numberOf(fields.get('metaPlainBytes'))).toBe(text.length);
    expect(Object.keys(JSON.parse(String(text)))).toEqual([...names, 'settings', 'columns', 'directories', 'files']);
    expect(fields.get('packTable')?.toString('hex')).toBe(idOf('a') + idOf('b'));
    expect(fields.get('sha256')).toEqual(createHash('sha256').update(bytes.subarray(0, -32)).digest());
    for (const [index, chunk] of [...(manifest.files[1]?.chunks ?? [])].entries()) {
      const row = explain('chunk-row', fields.get('chunkTable')?.subarray((index + 1) * 48, (index + 2) * 48) ?? bytes);
      const { hash, pack, ...rest } = chunk;
      expect(row.get('hash')).toEqual(hash);
      for (const [name, value] of Object.entries(rest)) expect([name, numberOf(row.get(name))]).toEqual([name, value]);
      const number = ['', idOf('a'), idOf('b')].indexOf(pack);
      expect(numberOf(row.get('pack'))).toBe(number === 0 ? 0xffffffff : number - 1);
    }
  });

  test('names only the packs that it needs', () => {
    const [file] = decodeManifest(Buffer.concat(encodeManifest(aManifest([3 * chunkBytes]))), 'm').files;
    expect(file?.chunks.packs).toEqual([idOf('a'), idOf('b')]);
  });

  test('cut anywhere it is refused', () => {
    const bytes = Buffer.concat(encodeManifest(aManifest([1, 2 * chunkBytes])));
    for (let length = 0; length < bytes.length; length += 1) {
      expect([length, codeOf(() => decodeManifest(bytes.subarray(0, length), 'm'))]).toEqual([length, 'QZ3506']);
    }
  });

  test('with any bit flipped it is refused', () => {
    const bytes = Buffer.concat(encodeManifest(aManifest([1, 2 * chunkBytes])));
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      expect([bit, codeOf(() => decodeManifest(flip(bytes, bit), 'm'))]).toEqual([bit, 'QZ3506']);
    }
  });

  test.each(['../evil', '/etc/passwd', 'a/../../b', 'a//b', './a', 'a/.', '', 'a\0b', 'a\\b'])(
    'does not take the path %j',
    (path) => {
      const manifest = aManifest([1]);
      const bad = { ...manifest, files: manifest.files.map((file) => ({ ...file, path })) };
      expect(() => encodeManifest(bad)).toThrow('cannot stand in a manifest');
    },
  );

  test.each(['../../evil.ibd', '/etc/cron.d/evil', 'agama//t0.ibdxx'])(
    'is refused when it holds the path %j',
    (path) => {
      const bytes = withMeta(Buffer.concat(encodeManifest(aManifest([1]))), (text) =>
        text.replace('agama/t0.ibd', path),
      );
      expect(() => decodeManifest(bytes, 'snapshots/x/manifest')).toThrow('leads out of the data directory');
      expect(codeOf(() => decodeManifest(bytes, 'm'))).toBe('QZ3506');
    },
  );

  test('is refused when a path stands in it twice, or a file has fewer chunks than bytes', () => {
    const bytes = Buffer.concat(encodeManifest(aManifest([1, 2])));
    const twice = withMeta(bytes, (text) => text.replace('agama/t1.ibd', 'agama/t0.ibd'));
    expect(() => decodeManifest(twice, 'm')).toThrow('a path stands in it twice');
    const longer = withMeta(bytes, (text) => text.replace('"agama/t1.ibd",2,', '"agama/t1.ibd",9999999,'));
    expect(() => decodeManifest(longer, 'm')).toThrow('1 chunks for 9999999 bytes');
  });

  test('takes no rows that do not fit their file', () => {
    const manifest = aManifest([chunkBytes + 1]);
    const files = manifest.files.map((file) => ({ ...file, sizeBytes: file.sizeBytes + chunkBytes }));
    expect(() => encodeManifest({ ...manifest, files })).toThrow('2 chunks for');
  });
});

describe('the COMPLETE mark', () => {
  const summary = { ...aManifest([5]), files: 1, sizeBytes: 5, newBytes: 4 };
  const mark = { manifestBytes: 1234, manifestSha256: createHash('sha256').update('m').digest(), summary };

  test('stands as its table says', () => {
    const bytes = encodeComplete(mark);
    const fields = explain('snapshot-complete', bytes);
    expect([fields.get('magic')?.toString(), numberOf(fields.get('version'))]).toEqual(['QZSC', 1]);
    expect([numberOf(fields.get('manifestBytes')), fields.get('manifestSha256')]).toEqual([1234, mark.manifestSha256]);
    expect(Object.keys(JSON.parse(String(fields.get('summary'))))).toEqual([
      ...names,
      'files',
      'sizeBytes',
      'newBytes',
    ]);
    expect(fields.get('sha256')).toEqual(createHash('sha256').update(bytes.subarray(0, -32)).digest());
  });

  test('says what the manifest says, but not what is in it', () => {
    const back = decodeComplete(encodeComplete(mark), 'c');
    expect(back).toMatchObject({ manifestBytes: 1234, summary: { source: 'agama', generation: 3, newBytes: 4 } });
    expect(back.manifestSha256.equals(mark.manifestSha256)).toBe(true);
    expect(String(back.summary.gtidsAfter)).toBe(`${uuid}:1-7`);
    expect(back.summary).not.toHaveProperty('columns');
  });

  test('cut anywhere, or with any bit flipped, it is refused', () => {
    const bytes = encodeComplete(mark);
    for (let length = 0; length < bytes.length; length += 1) {
      expect([length, codeOf(() => decodeComplete(bytes.subarray(0, length), 'c'))]).toEqual([length, 'QZ3506']);
    }
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      expect([bit, codeOf(() => decodeComplete(flip(bytes, bit), 'c'))]).toEqual([bit, 'QZ3506']);
    }
  });
});
