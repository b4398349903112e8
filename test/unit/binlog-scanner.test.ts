import { createHash } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { eventSize, firstEventOffset, writeChecksum } from '../../core/binlog/events.ts';
import { gtidText } from '../../core/binlog/gtid-event.ts';
import { type ScanOptions, TransactionScanner, transactionsIn } from '../../core/binlog/scanner.ts';
import { QazynaError } from '../../core/errors/error.ts';
import {
  type FixtureName,
  fixtureBytes,
  fixtureNames,
  printedEvents,
  printedGtidsBefore,
  printedTransactions,
} from '../fixtures/binlog/fixtures.ts';

const seed = Number(process.env.QZ_SEED ?? Date.now() % 2 ** 31);
fc.configureGlobal({ seed, numRuns: 60 });
const anyFixture = fc.constantFrom(...fixtureNames);

/** Everything a scanner reports, as text, in order. */
function record(options: Partial<ScanOptions> = {}) {
  const log: string[] = [];
  const scanner = new TransactionScanner(
    {
      fileHead: (head) =>
        log.push(`head ${head.end} ${head.checksum} ${head.gtidsBefore} ${head.sha256.toString('hex')}`),
      transactionStart: (transaction) => log.push(`start ${JSON.stringify({ ...transaction, end: undefined })}`),
      transactionEnd: (transaction) => log.push(`end ${JSON.stringify(transaction)}`),
      rotate: (next, end) => log.push(`rotate ${next.file} ${next.position} ${end}`),
      stop: (end) => log.push(`stop ${end}`),
    },
    { file: 'binlog.000001', verify: true, ...options },
  );
  return { log, scanner };
}

function body(name: FixtureName): Buffer {
  return fixtureBytes(name).subarray(firstEventOffset);
}

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof QazynaError) return error.code;
    throw error;
  }
  return 'no error';
}

describe.each(fixtureNames)('the recorded file %s', (name) => {
  test('its transactions are those mysqlbinlog printed', () => {
    const ours = transactionsIn(body(name), { file: name, verify: true }).map((transaction) => {
      const { key, number, serverId, immediateServerVersion: _i, originalServerVersion: _o, ...rest } = transaction;
      expect(serverId).toBe(4001);
      return { gtid: gtidText(key, number), ...rest };
    });
    expect(ours.length).toBeGreaterThan(0);
    expect(ours).toEqual(printedTransactions(name));
  });

  test('its head, its end and its boundaries', () => {
    const { log, scanner } = record();
    scanner.push(body(name));
    const events = printedEvents(name);
    const size = fixtureBytes(name).length;
    const head = events[1]?.end ?? 0;
    // A crashed file's in-use flag is cleared later, in place: the digest is that of the closed file.
    const headBytes = Buffer.from(fixtureBytes(name).subarray(4, head));
    headBytes.writeUInt8(headBytes.readUInt8(17) & ~1, 17);
    const sha256 = createHash('sha256').update(headBytes).digest('hex');
    const checksum = name === 'no-checksum' ? 'none' : 'crc32';
    expect(log[0]).toBe(`head ${head} ${checksum} ${printedGtidsBefore(name)} ${sha256}`);
    const finished = name === 'stopped' ? 'stop' : name === 'crashed' ? null : 'rotate';
    expect(scanner.finished).toBe(finished);
    expect(scanner).toMatchObject({ offset: size, boundary: size, transactionStart: size, insideTransaction: false });
    if (finished !== null) expect(log.at(-1)).toMatch(new RegExp(`^${finished} .*${size}$`));
  });

  test('byte by byte: the same reports, and the state is right after every byte', () => {
    const whole = record();
    whole.scanner.push(body(name));
    const { log, scanner } = record();
    const events = printedEvents(name);
    const transactions = printedTransactions(name);
    const bytes = body(name);
    for (let index = 0; index < bytes.length; index++) {
      scanner.push(bytes.subarray(index, index + 1));
      const offset = firstEventOffset + index + 1;
      const boundary = Math.max(firstEventOffset, ...events.filter(({ end }) => end <= offset).map(({ end }) => end));
      const open = transactions.find(({ start, end }) => start < boundary && boundary < end);
      expect([scanner.offset, scanner.boundary]).toEqual([offset, boundary]);
      expect(scanner.transactionStart).toBe(open?.start ?? boundary);
      expect(scanner.insideTransaction).toBe(open !== undefined);
    }
    expect(log).toEqual(whole.log);
  });

  test('started at any event boundary, with what was open there, it reports the rest', () => {
    const whole = record();
    const resumed: { start: number; open: ReturnType<typeof openCopy> }[] = [];
    const openCopy = () => (whole.scanner.open === null ? null : { ...whole.scanner.open });
    const bytes = fixtureBytes(name);
    for (const { start, end } of printedEvents(name)) {
      resumed.push({ start, open: openCopy() });
      whole.scanner.push(bytes.subarray(start, end));
    }
    for (const { start, open } of resumed) {
      const { log, scanner } = record({ start, open, checksum: name === 'no-checksum' ? 'none' : 'crc32' });
      scanner.push(bytes.subarray(start));
      const skipped = whole.log.length - log.length;
      expect(log).toEqual(whole.log.slice(skipped));
      expect(scanner.offset).toBe(bytes.length);
    }
  });
});

describe(`any input (seed ${seed})`, () => {
  test('any chunking gives the same reports', () => {
    fc.assert(
      fc.property(
        anyFixture,
        fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1 }),
        fc.boolean(),
        (name, sizes, verify) => {
          const whole = record({ verify });
          whole.scanner.push(body(name));
          const { log, scanner } = record({ verify });
          const bytes = body(name);
          for (let at = 0, index = 0; at < bytes.length; index++) {
            const size = sizes[index % sizes.length] ?? 1;
            // A copy that is overwritten afterwards: nothing may be kept of a chunk.
            const chunk = Buffer.from(bytes.subarray(at, at + size));
            scanner.push(chunk);
            chunk.fill(0xee);
            at += size;
          }
          expect(log).toEqual(whole.log);
        },
      ),
    );
  });

  test('a file cut off at any byte gives a prefix of the reports and no error', () => {
    fc.assert(
      fc.property(anyFixture, fc.nat(), (name, position) => {
        const whole = record();
        whole.scanner.push(body(name));
        const length = position % body(name).length;
        const { log, scanner } = record();
        scanner.push(body(name).subarray(0, length));
        expect(log).toEqual(whole.log.slice(0, log.length));
        expect(scanner.offset).toBe(firstEventOffset + length);
      }),
    );
  });

  test('with checksums verified, every flipped bit is refused', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...fixtureNames.filter((name) => name !== 'no-checksum')),
        fc.nat(),
        fc.boolean(),
        (name, position, split) => {
          const bytes = Buffer.from(body(name));
          const bit = position % (bytes.length * 8);
          // The in-use flag is no part of the checksum, on purpose.
          fc.pre(bit !== 17 * 8);
          bytes.writeUInt8(bytes.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
          const { scanner } = record();
          const code = codeOf(() => {
            if (split) for (let at = 0; at < bytes.length; at += 50) scanner.push(bytes.subarray(at, at + 50));
            else scanner.push(bytes);
          });
          // A larger size in the last header makes it wait for bytes that never come.
          if (code === 'no error') expect(scanner.boundary).toBeLessThan(fixtureBytes(name).length);
          else expect(code).toMatch(/^QZ320[1-6]$/);
        },
      ),
      { numRuns: 400 },
    );
  });

  test('without verification a flipped bit never crashes or hangs', () => {
    fc.assert(
      fc.property(anyFixture, fc.array(fc.nat(), { minLength: 1, maxLength: 4 }), (name, positions) => {
        const bytes = Buffer.from(body(name));
        for (const position of positions) {
          const bit = position % (bytes.length * 8);
          bytes.writeUInt8(bytes.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
        }
        expect(codeOf(() => record({ verify: false }).scanner.push(bytes))).toMatch(/^(QZ320[1-6]|no error)$/);
      }),
      { numRuns: 400 },
    );
  });
});

/** A tiny file of our own: the recorded head, then events given by type and body size, offsets as if far into the file. */
function event(type: number, start: number, content: Buffer): Buffer {
  const bytes = Buffer.alloc(19 + content.length + 4);
  bytes.writeUInt8(type, 4);
  bytes.writeUInt32LE(bytes.length, 9);
  bytes.writeUInt32LE((start + bytes.length) % 2 ** 32, 13);
  content.copy(bytes, 19);
  writeChecksum(bytes);
  return bytes;
}

describe('beyond 4 GiB and beyond memory', () => {
  test('offsets go on where LogPos wraps', () => {
    const source = fixtureBytes('stopped');
    const gtidStart = printedTransactions('stopped')[0]?.start ?? 0;
    const gtidBody = source.subarray(gtidStart + 19, gtidStart + eventSize(source, gtidStart) - 4);
    const start = 2 ** 32 - 100;
    const gtid = event(33, start, gtidBody);
    const length = printedTransactions('stopped')[0]?.transactionLength ?? 0;
    const rest = event(2, start + gtid.length, Buffer.alloc(length - gtid.length - 23));
    const [transaction] = transactionsIn(Buffer.concat([gtid, rest]), { file: 'binlog.000001', start, verify: true });
    expect(transaction).toMatchObject({ start, end: start + length, transactionLength: length });
    expect(transaction?.end).toBeGreaterThan(2 ** 32);
  });

  test('a 300 MB event in 1 MB chunks is never held', () => {
    const size = 300 * 1024 * 1024;
    const { scanner } = record({
      verify: false,
      open: { ...anyTransaction, start: 200, end: 1000 + size },
      start: 1000,
    });
    const header = Buffer.alloc(19);
    header.writeUInt8(30, 4);
    header.writeUInt32LE(size, 9);
    header.writeUInt32LE(1000 + size, 13);
    scanner.push(header);
    const chunk = Buffer.alloc(1024 * 1024);
    const before = process.memoryUsage().arrayBuffers;
    for (let left = size - 19; left > 0; left -= chunk.length)
      scanner.push(chunk.subarray(0, Math.min(left, chunk.length)));
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(20 * 1024 * 1024);
    expect(scanner).toMatchObject({ offset: 1000 + size, boundary: 1000 + size, insideTransaction: false });
  });

  test('a control event that claims a huge size is refused at its header', () => {
    const header = Buffer.alloc(19);
    header.writeUInt8(33, 4);
    header.writeUInt32LE(0x7fffffff, 9);
    header.writeUInt32LE(1000 + 0x7fffffff, 13);
    expect(codeOf(() => record({ start: 1000 }).scanner.push(header))).toBe('QZ3203');
  });
});

const anyTransaction = transactionsIn(body('stopped'), { file: 'x' })[0] ?? never();

function never(): never {
  throw new Error('the fixture holds no transaction');
}

describe('contradictions', () => {
  const stopped = body('stopped');
  const positions = printedEvents('stopped');
  const part = (from: number, to?: number) =>
    Buffer.concat(positions.slice(from, to).map(({ start, end }) => stopped.subarray(start - 4, end - 4)));

  test('an event left out is seen by its position', () => {
    const { scanner } = record();
    scanner.push(part(0, 3));
    expect(codeOf(() => scanner.push(part(4)))).toBe('QZ3203');
    expect(scanner.boundary).toBe(positions[3]?.start);
  });

  test('a file that does not begin with its head', () => {
    expect(codeOf(() => record({ start: 4 }).scanner.push(event(33, 4, Buffer.alloc(42))))).toBe('QZ3206');
    const { scanner } = record();
    scanner.push(part(0, 1));
    expect(codeOf(() => scanner.push(event(2, 127, Buffer.alloc(42))))).toBe('QZ3206');
  });

  test('an event outside any transaction', () => {
    expect(codeOf(() => record({ start: 1000 }).scanner.push(event(2, 1000, Buffer.alloc(42))))).toBe('QZ3205');
  });

  test('an event that runs beyond its transaction, and a GTID event inside one', () => {
    const open = { ...anyTransaction, start: 900, end: 1050 };
    expect(codeOf(() => record({ start: 1000, open }).scanner.push(event(2, 1000, Buffer.alloc(42))))).toBe('QZ3205');
    const long = { ...anyTransaction, start: 900, end: 5000 };
    expect(codeOf(() => record({ start: 1000, open: long }).scanner.push(event(33, 1000, Buffer.alloc(42))))).toBe(
      'QZ3205',
    );
  });

  test('anything after the last event', () => {
    const { scanner } = record();
    scanner.push(stopped);
    expect(codeOf(() => scanner.push(event(34, fixtureBytes('stopped').length, Buffer.alloc(42))))).toBe('QZ3205');
  });
});

describe('transactions without a length (servers before 8.0)', () => {
  const uuid = Buffer.from('6319ce7ce72911f19f7d02fc00000001', 'hex');
  const gtid = (start: number, number: number) => {
    const content = Buffer.alloc(42);
    uuid.copy(content, 1);
    content.writeUInt8(number, 17);
    content.writeUInt8(2, 25);
    return event(33, start, content);
  };

  test('end at their Xid, or where the next one begins', () => {
    const parts: Buffer[] = [];
    let at = 1000;
    const add = (make: (start: number) => Buffer) => {
      const bytes = make(at);
      parts.push(bytes);
      at += bytes.length;
    };
    add((start) => gtid(start, 1));
    add((start) => event(2, start, Buffer.alloc(30)));
    add((start) => event(16, start, Buffer.alloc(8)));
    const first = at;
    add((start) => gtid(start, 2));
    add((start) => event(2, start, Buffer.alloc(60)));
    const second = at;
    add((start) => gtid(start, 3));
    const ended = transactionsIn(Buffer.concat(parts), { file: 'old', start: 1000, verify: true });
    expect(ended.map(({ number, start, end }) => ({ number, start, end }))).toEqual([
      { number: 1, start: 1000, end: first },
      { number: 2, start: first, end: second },
    ]);
  });
});
