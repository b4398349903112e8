/**
 * Gathers the bytes of one binlog file into entries of at most one slab, copies them once, checks checksums over whole
 * entries, and keeps account of the GTIDs and commit times of the transactions that end in each.
 */
import { checksumBytes, eventSize, headerBytes } from '../../core/binlog/events.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { crc32 } from '../../core/bytes/crc32.ts';
import { integrityError } from '../../core/errors/error.ts';
import { crcOfRest } from './crc-chain.ts';
import type { Gathering } from './gathering.ts';
import type { SlabPool } from './slab-pool.ts';
import type { CapturedEntry } from './types.ts';

export const unknownHead = Buffer.alloc(32);
/** A slab with less room than this is left, so that entries do not become tiny. */
const minSlabRestBytes = 64 * 1024;
/** Summing up less than this at a time costs more in calls than it saves. */
const sumFromBytes = 32 * 1024;

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
  readonly #gathering: Gathering;
  readonly #ready: CapturedEntry[] = [];
  #readyBytes = 0;

  #file = '';
  #headSha256: Buffer = unknownHead;
  #gtidsBefore: GtidSet | null = null;

  /** Where the first byte of the entry in the making stands in the file. */
  #start = 4;
  /** Bytes still to be skipped because they were captured before. */
  #skip = 0;
  #prefixCrc: number | null = null;

  /** CRC-32 of all bytes since the place, up to #summed in the slab. */
  #running = 0;
  #summed = 0;

  /** Entries are at most as long as a slab; `gathering` holds one of `slabs`. */
  constructor(options: { sourceUuid: string; gtids: GtidSet; slabs: SlabPool; gathering: Gathering }) {
    this.#sourceUuid = options.sourceUuid;
    this.#gtids = options.gtids;
    this.#slabs = options.slabs;
    this.#gathering = options.gathering;
  }

  /** Transactions in the entries made so far (and before the first of them); not yet those of the entry in the making. */
  get gtids(): GtidSet {
    return this.#gtids;
  }

  get pendingBytes(): number {
    return this.#gathering.to - this.#gathering.from;
  }

  get readyBytes(): number {
    return this.#readyBytes;
  }

  /** One past the last byte gathered, in the present file. */
  get tail(): number {
    return this.#start + this.pendingBytes - this.#skip;
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
    this.#gathering.sound.reset();
  }

  /** The file's head was read: its hash goes into this and all further entries, its Previous_gtids into the one that opens it. */
  setHead(sha256: Buffer, gtidsBefore: GtidSet): void {
    this.#headSha256 = sha256;
    if (this.#start === 4) this.#gtidsBefore = gtidsBefore.clone();
  }

  /** Nothing that comes was captured before. */
  get isPastCaptured(): boolean {
    return this.#skip === 0;
  }

  /** Gathers [start, end) of `chunk`, cutting entries as they fill. */
  append(chunk: Buffer, start: number, end: number): void {
    const gathering = this.#gathering;
    let from = start;
    if (this.#skip > 0) from = this.#skipCaptured(chunk, start, end);
    while (from < end) {
      const room = gathering.slab.length - gathering.to;
      const size = Math.min(end - from, room);
      chunk.copy(gathering.slab, gathering.to, from, from + size);
      gathering.to += size;
      from += size;
      if (gathering.to === gathering.slab.length && from < end) this.cut();
    }
  }

  /** Sums up what was gathered while it is still in the processor's cache. At an event boundary. */
  sum(): void {
    const { slab, to, checksum } = this.#gathering;
    if (checksum !== 'crc32' || to - this.#summed < sumFromBytes) return;
    this.#running = crc32(slab.subarray(this.#summed, to), this.#running);
    this.#summed = to;
  }

  #skipCaptured(chunk: Buffer, start: number, end: number): number {
    const size = Math.min(this.#skip, end - start);
    const isChecked = this.#gathering.checksum === 'crc32';
    if (isChecked) this.#running = crc32(chunk.subarray(start, start + size), this.#running);
    this.#skip -= size;
    if (this.#skip === 0 && isChecked && this.#prefixCrc !== null && this.#running !== this.#prefixCrc)
      throw integrityError(
        'QZ3242',
        `The source sends other bytes below ${this.#start} of ${this.#file} than those that were captured.`,
        'They were damaged on their way, or the source replaced them: the event there is broken in the backup. Go on with `qazyna timeline new --reason …`.',
      );
    return start + size;
  }

  /** After `cut`: the CRC-32 of what was gathered beyond the last boundary; null when nothing was, or checksums are off. */
  get prefixCrc(): number | null {
    const length = this.#start - this.#gathering.position;
    if (length <= 0 || this.#gathering.checksum !== 'crc32') return null;
    return crcOfRest(this.#running, this.#gathering.sound.value, length);
  }

  /** Finish the entry in the making, if it has a byte. */
  cut(): void {
    const gathering = this.#gathering;
    if (this.pendingBytes === 0) return;
    const body = gathering.slab.subarray(gathering.from, gathering.to);
    const end = this.#start + body.length;
    this.#verify(body);
    this.#account(end);
    const { gtids, firstCommitMicros, lastCommitMicros } = gathering.ended;
    this.#ready.push({
      kind: 'events',
      sourceUuid: this.#sourceUuid,
      file: this.#file,
      start: this.#start,
      end,
      boundary: gathering.position,
      transactionStart: Math.min(gathering.transactionStart, end),
      fileHeadSha256: this.#headSha256,
      firstCommitMicros,
      lastCommitMicros,
      gtidsAdded: gtids,
      gtidsBefore: this.#gtidsBefore,
      completeThroughMicros: 0,
      semiSync: false,
      note: '',
      body,
    });
    this.#readyBytes += body.length;
    this.#gtidsBefore = null;
    gathering.ended.reset();
    this.#start = end;
    gathering.from = gathering.to;
    this.#slabs.hold(gathering.slab);
    if (gathering.slab.length - gathering.to < minSlabRestBytes) {
      this.#slabs.filled(gathering.slab);
      gathering.fill(this.#slabs.take());
      this.#summed = 0;
    }
  }

  /** Lets go of the slab in the making, and of what was gathered in it but not cut: nothing may be appended any more. */
  close(): void {
    this.#slabs.filled(this.#gathering.slab);
  }

  /** An entry without bytes: "everything stamped ≤ this is captured". What is pending must have been cut. */
  heartbeat(completeThroughMicros: number): void {
    const end = this.#start;
    this.#ready.push({
      kind: 'heartbeat',
      sourceUuid: this.#sourceUuid,
      file: this.#file,
      start: end,
      end,
      boundary: this.#gathering.position,
      transactionStart: Math.min(this.#gathering.transactionStart, end),
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
    const { gtids: added, count } = this.#gathering.ended;
    const again = this.#gtids.intersect(added);
    if (!again.isEmpty || added.count !== count)
      throw integrityError(
        'QZ3220',
        `The source gave GTIDs a second time before byte ${end} of ${this.#file}: ${again.isEmpty ? added : again}.`,
        'It lost history and reuses numbers. Find out why, then go on with `qazyna timeline new --reason …`.',
      );
    this.#gtids.addAll(added);
  }

  #verify(body: Buffer): void {
    const { from, position: boundary, sound: wanted, checksum } = this.#gathering;
    const summed = this.#summed - from;
    this.#summed = this.#gathering.to;
    if (checksum !== 'crc32') return;
    if (boundary < this.#start) {
      this.#running = crc32(body.subarray(summed), this.#running);
      return;
    }
    const sound = boundary - this.#start;
    const found = crc32(body.subarray(summed, sound), this.#running);
    if (found !== wanted.value) throw this.#wrongChecksum(body, sound);
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
