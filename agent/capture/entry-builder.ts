/**
 * Gathers the bytes of one binlog file into entries of at most one slab, copies them once, checks checksums over whole
 * entries, and keeps account of the GTIDs and commit times of the transactions that end in each.
 */
import { crc32 } from 'node:zlib';
import { type ChecksumAlgorithm, checksumBytes, eventSize, headerBytes } from '../../core/binlog/events.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { integrityError } from '../../core/errors/error.ts';
import { afterSoundEvent, crcOfRest } from './crc-chain.ts';
import type { SlabPool } from './slab-pool.ts';
import type { CapturedEntry } from './types.ts';

export const unknownHead = Buffer.alloc(32);
/** A slab with less room than this is left, so that entries do not become tiny. */
const minSlabRestBytes = 64 * 1024;

export interface FilePlace {
  file: string;
  /** The event boundary the stream begins at. */
  boundary: number;
  /** Bytes below this were captured before: they are checked, not gathered. */
  captured: number;
  headSha256: Buffer;
  /** CRC-32 of the bytes [boundary, captured); null when unknown. */
  prefixCrc: number | null;
}

export class EntryBuilder {
  readonly #sourceUuid: string;
  readonly #slabs: SlabPool;
  readonly #gtids: GtidSet;
  readonly #ready: CapturedEntry[] = [];
  #readyBytes = 0;

  #file = '';
  #headSha256: Buffer = unknownHead;
  #gtidsBefore: GtidSet | null = null;
  checksum: ChecksumAlgorithm = 'crc32';

  /** The entry in the making is slab[#from, #to); its first byte stands at #start in the file. */
  #slab: Buffer;
  #from = 0;
  #to = 0;
  #start = 4;
  /** Bytes still to be skipped because they were captured before. */
  #skip = 0;
  #prefixCrc: number | null = null;

  /** CRC-32 of all bytes since the place, up to the last cut, and the one that sound events up to the boundary must have. */
  #running = 0;
  #expected = 0;

  #runKey = '';
  #runFirst = 0;
  #runLast = 0;
  #added = new GtidSet();
  #ended = 0;
  #firstCommitMicros = 0;
  #lastCommitMicros = 0;

  /** Entries are at most as long as a slab. */
  constructor(options: { sourceUuid: string; gtids: GtidSet; slabs: SlabPool }) {
    this.#sourceUuid = options.sourceUuid;
    this.#gtids = options.gtids;
    this.#slabs = options.slabs;
    this.#slab = options.slabs.take();
  }

  /** Transactions in the entries made so far (and before the first of them); not yet those of the entry in the making. */
  get gtids(): GtidSet {
    return this.#gtids;
  }

  get pendingBytes(): number {
    return this.#to - this.#from;
  }

  get readyBytes(): number {
    return this.#readyBytes;
  }

  /** One past the last byte gathered, in the present file. */
  get tail(): number {
    return this.#start + this.#to - this.#from - this.#skip;
  }

  /** Entries finished since the last call. */
  take(): { items: CapturedEntry[]; bodyBytes: number } {
    const taken = { items: this.#ready.splice(0), bodyBytes: this.#readyBytes };
    this.#readyBytes = 0;
    return taken;
  }

  /** Begin a file, or go on in one. Nothing may be pending. */
  open(place: FilePlace): void {
    this.#file = place.file;
    this.#headSha256 = place.headSha256;
    this.#gtidsBefore = null;
    this.#start = place.captured;
    this.#skip = place.captured - place.boundary;
    this.#prefixCrc = place.prefixCrc;
    this.#running = 0;
    this.#expected = 0;
  }

  /** The file's head was read: its hash goes into this and all further entries, its Previous_gtids into the one that opens it. */
  setHead(sha256: Buffer, gtidsBefore: GtidSet): void {
    this.#headSha256 = sha256;
    if (this.#start === 4) this.#gtidsBefore = gtidsBefore.clone();
  }

  /** Gathers [start, end) of `chunk`, cutting entries as they fill. `boundary` and `transactionStart` as of before these bytes. */
  append(chunk: Buffer, start: number, end: number, boundary: number, transactionStart: number): void {
    let from = start;
    if (this.#skip > 0) from = this.#skipCaptured(chunk, start, end);
    while (from < end) {
      const room = this.#slab.length - this.#to;
      const size = Math.min(end - from, room);
      chunk.copy(this.#slab, this.#to, from, from + size);
      this.#to += size;
      from += size;
      if (this.#to === this.#slab.length && from < end) this.cut(boundary, transactionStart);
    }
  }

  #skipCaptured(chunk: Buffer, start: number, end: number): number {
    const size = Math.min(this.#skip, end - start);
    if (this.checksum === 'crc32') this.#running = crc32(chunk.subarray(start, start + size), this.#running);
    this.#skip -= size;
    if (this.#skip === 0 && this.checksum === 'crc32' && this.#prefixCrc !== null && this.#running !== this.#prefixCrc)
      throw integrityError(
        'QZ3242',
        `The source sends other bytes below ${this.#start} of ${this.#file} than those that were captured.`,
        'They were damaged on their way, or the source replaced them: the event there is broken in the backup. Go on with `qazyna timeline new --reason …`.',
      );
    return start + size;
  }

  /** After `cut`: the CRC-32 of what was gathered beyond the last boundary; null when nothing was, or checksums are off. */
  prefixCrc(boundary: number): number | null {
    const length = this.#start - boundary;
    if (length <= 0 || this.checksum !== 'crc32') return null;
    return crcOfRest(this.#running, this.#expected, length);
  }

  /** An event of `size` bytes ended. */
  endEvent(size: number): void {
    this.#expected = afterSoundEvent(this.#expected, size);
  }

  endTransaction(key: string, number: number, commitMicros: number): void {
    this.#ended++;
    if (key === this.#runKey && number === this.#runLast + 1) {
      this.#runLast = number;
    } else {
      this.#endRun();
      this.#runKey = key;
      this.#runFirst = number;
      this.#runLast = number;
    }
    if (this.#lastCommitMicros < commitMicros) this.#lastCommitMicros = commitMicros;
    if (this.#firstCommitMicros === 0 || commitMicros < this.#firstCommitMicros) this.#firstCommitMicros = commitMicros;
  }

  #endRun(): void {
    if (this.#runKey !== '') this.#added.add(this.#runKey, this.#runFirst, this.#runLast);
    this.#runKey = '';
  }

  /** Finish the entry in the making, if it has a byte. `boundary`: the last event boundary. */
  cut(boundary: number, transactionStart: number): void {
    if (this.#to === this.#from) return;
    const body = this.#slab.subarray(this.#from, this.#to);
    const end = this.#start + body.length;
    this.#verify(body, boundary);
    this.#endRun();
    this.#account(end);
    this.#ready.push({
      kind: 'events',
      sourceUuid: this.#sourceUuid,
      file: this.#file,
      start: this.#start,
      end,
      boundary,
      transactionStart: Math.min(transactionStart, end),
      fileHeadSha256: this.#headSha256,
      firstCommitMicros: this.#firstCommitMicros,
      lastCommitMicros: this.#lastCommitMicros,
      gtidsAdded: this.#added,
      gtidsBefore: this.#gtidsBefore,
      completeThroughMicros: 0,
      semiSync: false,
      note: '',
      body,
    });
    this.#readyBytes += body.length;
    this.#gtidsBefore = null;
    this.#added = new GtidSet();
    this.#ended = 0;
    this.#firstCommitMicros = 0;
    this.#lastCommitMicros = 0;
    this.#start = end;
    this.#from = this.#to;
    this.#slabs.hold(this.#slab);
    if (this.#slab.length - this.#to < minSlabRestBytes) {
      this.#slabs.filled(this.#slab);
      this.#slab = this.#slabs.take();
      this.#from = 0;
      this.#to = 0;
    }
  }

  /** An entry without bytes: "everything stamped ≤ this is captured". What is pending must have been cut. */
  heartbeat(completeThroughMicros: number, boundary: number, transactionStart: number): void {
    const end = this.#start;
    this.#ready.push({
      kind: 'heartbeat',
      sourceUuid: this.#sourceUuid,
      file: this.#file,
      start: end,
      end,
      boundary,
      transactionStart: Math.min(transactionStart, end),
      fileHeadSha256: this.#headSha256,
      firstCommitMicros: 0,
      lastCommitMicros: 0,
      gtidsAdded: new GtidSet(),
      gtidsBefore: null,
      completeThroughMicros,
      semiSync: false,
      note: '',
      body: Buffer.alloc(0),
    });
  }

  /** A GTID counts once: neither twice in this entry nor in any before. */
  #account(end: number): void {
    const again = this.#gtids.intersect(this.#added);
    if (!again.isEmpty || this.#added.count !== this.#ended)
      throw integrityError(
        'QZ3220',
        `The source gave GTIDs a second time before byte ${end} of ${this.#file}: ${again.isEmpty ? this.#added : again}.`,
        'It lost history and reuses numbers. Find out why, then go on with `qazyna timeline new --reason …`.',
      );
    this.#gtids.addAll(this.#added);
  }

  #verify(body: Buffer, boundary: number): void {
    if (this.checksum !== 'crc32') return;
    if (boundary < this.#start) {
      this.#running = crc32(body, this.#running);
      return;
    }
    const sound = boundary - this.#start;
    const found = crc32(body.subarray(0, sound), this.#running);
    if (found !== this.#expected >>> 0) throw this.#wrongChecksum(body, sound);
    this.#running = crc32(body.subarray(sound), found);
  }

  /** Which of the events it was. The first bytes may belong to an event that began in an earlier entry. */
  #wrongChecksum(body: Buffer, end: number) {
    let at = end;
    for (const start of eventStarts(body, end, this.#start)) {
      const size = eventSize(body, start);
      const sum = start + size - checksumBytes;
      if (crc32(body.subarray(start, sum)) !== body.readUInt32LE(sum)) {
        at = start;
        break;
      }
    }
    const where = at === end ? `up to byte ${this.#start + end}` : `at byte ${this.#start + at}`;
    return integrityError(
      'QZ3221',
      `An event of ${this.#file} ${where} does not match its checksum.`,
      'It was damaged on the disk of the source or on its way. Examine the file with mysqlbinlog --verify-binlog-checksum on the server, and restart the agent: it reads the event again.',
    );
  }
}

/** Offsets of whole events in body[0, end), found from LogPos: an event that began before the body is stepped over. */
function* eventStarts(body: Buffer, end: number, fileStart: number): Generator<number> {
  const isStart = (at: number) => {
    if (at + headerBytes > end) return false;
    const size = eventSize(body, at);
    return size >= headerBytes && at + size <= end && body.readUInt32LE(at + 13) === (fileStart + at + size) >>> 0;
  };
  let at = 0;
  while (at < end && !isStart(at)) at++;
  for (; isStart(at); at += eventSize(body, at)) yield at;
}
