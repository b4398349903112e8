/**
 * A set of GTIDs, tagged ones (MySQL ≥ 8.3) included. Mutable; `clone()` before sharing.
 *
 * Per key (`uuid` or `uuid:tag`) one flat, sorted list of half-open intervals: start, end, start, end … None empty, none
 * touching the next: two equal sets always hold equal lists.
 *
 * Wire facts: `Gtid_set::encode`, `Gtid_set::add_gtid_encoding` and `encode_nsids_format` in MySQL's sql/rpl_gtid_set.cc;
 * the tag's length is one byte of the variable-length integers of libs/mysql/serialization (a length < 128, doubled).
 */
import { configurationError, integrityError } from '../errors/error.ts';
import { difference, insert, intersection, isInside, isWithin, union } from './intervals.ts';

const uuidBytes = 16;
const countBytes = 8;
const intervalBytes = 16;
const maxTagLength = 32;
/** `Gtid_format::tagged`, in the highest and again in the lowest byte of the count of keys. */
const taggedFormat = 1;

const keyPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(:[a-z_][a-z0-9_]{0,31})?$/;
const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const tagPattern = /^[a-z_][a-z0-9_]{0,31}$/;
const intervalPattern = /^(\d{1,16})(?:\s*-\s*(\d{1,16}))?$/;

export class GtidSet {
  readonly #intervals = new Map<string, number[]>();

  /**
   * `uuid:1-5:7,uuid:tag:1-3` or, as the server writes it, `uuid:1-5:7:tag:1-3`; white space, case and order free; '' is the
   * empty set. Throws QZ2104 on anything else.
   */
  static parse(text: string): GtidSet {
    const pairs = new Map<string, [number, number][]>();
    for (const part of text.split(',')) {
      const trimmed = part.trim().toLowerCase();
      if (trimmed !== '') parseOneUuid(trimmed, pairs);
    }
    const set = new GtidSet();
    for (const [key, intervals] of pairs) {
      intervals.sort((a, b) => a[0] - b[0]);
      for (const [start, end] of intervals) set.add(key, start, end - 1);
    }
    return set;
  }

  /** The bytes of a Previous_gtids event's body (no checksum) or a COM_BINLOG_DUMP_GTID's set; QZ3201 when malformed. */
  static decode(bytes: Buffer, maxKeys = Number.POSITIVE_INFINITY): GtidSet {
    const set = new GtidSet();
    const reader = new SetReader(bytes);
    const { keys, tagged } = reader.keyCount();
    if (keys > maxKeys) throw malformed(`names ${keys} sources, more than ${maxKeys}`);
    for (let index = 0; index < keys; index++) {
      const key = reader.key(tagged);
      if (set.#intervals.has(key)) throw malformed(`names ${key} twice`);
      const intervals = reader.intervals();
      if (intervals.length > 0) set.#intervals.set(key, intervals);
    }
    reader.end();
    return set;
  }

  /** The untagged layout, which every server reads, unless the set holds a tag. */
  encode(): Buffer {
    const keys = this.#sortedKeys();
    const tagged = keys.some((key) => key.length > 36);
    let sizeBytes = countBytes;
    for (const key of keys) sizeBytes += encodedKeyBytes(key, tagged) + this.#listOf(key).length * 8;
    const bytes = Buffer.alloc(sizeBytes);
    if (tagged) {
      bytes.writeUIntLE(taggedFormat, 0, 1);
      bytes.writeUIntLE(keys.length, 1, 6);
      bytes.writeUIntLE(taggedFormat, 7, 1);
    } else {
      bytes.writeUIntLE(keys.length, 0, 6);
    }
    let offset = countBytes;
    for (const key of keys) {
      offset += bytes.write(key.slice(0, 36).replaceAll('-', ''), offset, 'hex');
      if (tagged) {
        offset = bytes.writeUInt8(Math.max(0, key.length - 37) << 1, offset);
        offset += bytes.write(key.slice(37), offset, 'latin1');
      }
      const list = this.#listOf(key);
      offset = writeU64(bytes, list.length / 2, offset);
      for (const bound of list) offset = writeU64(bytes, bound, offset);
    }
    return bytes;
  }

  /** `key` is `uuid` or `uuid:tag`, lower case. `first`..`last` inclusive. */
  add(key: string, first: number, last: number = first): void {
    if (!Number.isSafeInteger(first) || !Number.isSafeInteger(last + 1) || first < 1 || last < first) {
      throw malformed(`has the impossible interval ${first}-${last} for ${key}`);
    }
    const list = this.#intervals.get(key);
    if (list === undefined) {
      if (!keyPattern.test(key)) throw malformed(`names '${key.slice(0, 80)}', which is neither uuid nor uuid:tag`);
      this.#intervals.set(key, [first, last + 1]);
      return;
    }
    // Transactions arrive almost always in order: the last interval grows.
    const tail = list[list.length - 1] ?? 0;
    if (first === tail) list[list.length - 1] = last + 1;
    else if (first > tail) list.push(first, last + 1);
    else insert(list, first, last + 1);
  }

  addAll(other: GtidSet): void {
    for (const [key, theirs] of other.#intervals) {
      const ours = this.#intervals.get(key);
      this.#intervals.set(key, ours === undefined ? [...theirs] : union(ours, theirs));
    }
  }

  has(key: string, number: number): boolean {
    const list = this.#intervals.get(key);
    return list !== undefined && isInside(list, number);
  }

  containsAll(other: GtidSet): boolean {
    for (const [key, theirs] of other.#intervals) {
      const ours = this.#intervals.get(key);
      if (ours === undefined || !isWithin(theirs, ours)) return false;
    }
    return true;
  }

  /** A new set: this − other. */
  subtract(other: GtidSet): GtidSet {
    const result = new GtidSet();
    for (const [key, ours] of this.#intervals) {
      const theirs = other.#intervals.get(key);
      const rest = theirs === undefined ? [...ours] : difference(ours, theirs);
      if (rest.length > 0) result.#intervals.set(key, rest);
    }
    return result;
  }

  /** A new set: this ∩ other. */
  intersect(other: GtidSet): GtidSet {
    const result = new GtidSet();
    for (const [key, ours] of this.#intervals) {
      const theirs = other.#intervals.get(key);
      const common = theirs === undefined ? [] : intersection(ours, theirs);
      if (common.length > 0) result.#intervals.set(key, common);
    }
    return result;
  }

  /** Some number here is lower than one of `other` under the same key. */
  isBelow(other: GtidSet): boolean {
    for (const [key, ours] of this.#intervals)
      if ((ours[0] ?? 0) < (other.#intervals.get(key)?.at(-1) ?? 0) - 1) return true;
    return false;
  }

  /** A new set: those of one server, tagged and not. */
  ofSource(uuid: string): GtidSet {
    const result = new GtidSet();
    for (const [key, ours] of this.#intervals) if (key.startsWith(uuid)) result.#intervals.set(key, [...ours]);
    return result;
  }

  equals(other: GtidSet): boolean {
    if (this.#intervals.size !== other.#intervals.size) return false;
    for (const [key, ours] of this.#intervals) {
      const theirs = other.#intervals.get(key);
      if (theirs?.length !== ours.length || ours.some((bound, index) => bound !== theirs[index])) return false;
    }
    return true;
  }

  get isEmpty(): boolean {
    return this.#intervals.size === 0;
  }

  /** `uuid` and `uuid:tag` of every source named here, in no order. */
  keys(): Iterable<string> {
    return this.#intervals.keys();
  }

  /** How many GTIDs. */
  get count(): number {
    let count = 0;
    for (const list of this.#intervals.values()) {
      for (let index = 0; index < list.length; index += 2) count += (list[index + 1] ?? 0) - (list[index] ?? 0);
    }
    return count;
  }

  clone(): GtidSet {
    const copy = new GtidSet();
    for (const [key, list] of this.#intervals) copy.#intervals.set(key, [...list]);
    return copy;
  }

  /**
   * Canonical: keys sorted, intervals merged, as the server prints it but without line breaks. Ends in `…` where it would
   * have more than `maxIntervals`, for messages.
   */
  toString(maxIntervals = Number.POSITIVE_INFINITY): string {
    let text = '';
    let uuid = '';
    let left = maxIntervals;
    for (const key of this.#sortedKeys()) {
      if (key.startsWith(uuid) && uuid !== '') text += key.slice(36);
      else text += text === '' ? key : `,${key}`;
      uuid = key.slice(0, 36);
      const list = this.#listOf(key);
      for (let index = 0; index < list.length; index += 2) {
        if (--left < 0) return `${text}…`;
        const first = list[index] ?? 0;
        const last = (list[index + 1] ?? 0) - 1;
        text += first === last ? `:${first}` : `:${first}-${last}`;
      }
    }
    return text;
  }

  #sortedKeys(): string[] {
    return [...this.#intervals.keys()].sort();
  }

  #listOf(key: string): readonly number[] {
    return this.#intervals.get(key) ?? [];
  }
}

/** Bounded by the bytes at hand: no count is believed before that many bytes are seen to be there. */
class SetReader {
  readonly #bytes: Buffer;
  #offset = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  keyCount(): { keys: number; tagged: boolean } {
    const start = this.#take(countBytes);
    const format = this.#bytes.readUInt8(start + 7);
    if (format > taggedFormat) throw malformed(`has the unknown format ${format}`);
    const tagged = format === taggedFormat;
    if (tagged && this.#bytes.readUInt8(start) !== format) throw malformed('has two different formats');
    const keys = tagged
      ? this.#bytes.readUIntLE(start + 1, 6)
      : this.#bytes.readUIntLE(start, 6) + this.#bytes.readUInt8(start + 6) * 2 ** 48;
    if (keys > this.#left / (uuidBytes + countBytes)) throw malformed(`claims ${keys} sources in ${this.#left} bytes`);
    return { keys, tagged };
  }

  key(tagged: boolean): string {
    const start = this.#take(uuidBytes);
    const hex = this.#bytes.toString('hex', start, start + uuidBytes);
    const uuid = `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
    if (!tagged) return uuid;
    const doubled = this.#bytes.readUInt8(this.#take(1));
    const length = doubled >> 1;
    if (doubled & 1 || length > maxTagLength) throw malformed(`has a tag of impossible length (byte ${doubled})`);
    if (length === 0) return uuid;
    const at = this.#take(length);
    const tag = this.#bytes.toString('latin1', at, at + length);
    if (!tagPattern.test(tag)) throw malformed(`has the impossible tag ${JSON.stringify(tag)}`);
    return `${uuid}:${tag}`;
  }

  intervals(): number[] {
    const count = readU64(this.#bytes, this.#take(countBytes));
    if (count > this.#left / intervalBytes) throw malformed(`claims ${count} intervals in ${this.#left} bytes`);
    const list: number[] = [];
    let last = 0;
    for (let index = 0; index < count; index++) {
      const at = this.#take(intervalBytes);
      const start = readU64(this.#bytes, at);
      const end = readU64(this.#bytes, at + 8);
      if (start <= last || end <= start) throw malformed(`has intervals out of order (${start}, ${end} after ${last})`);
      list.push(start, end);
      last = end;
    }
    return list;
  }

  end(): void {
    if (this.#left > 0) throw malformed(`has ${this.#left} bytes too many`);
  }

  get #left(): number {
    return this.#bytes.length - this.#offset;
  }

  #take(size: number): number {
    if (size > this.#left) throw malformed(`ends early, at byte ${this.#bytes.length}`);
    const start = this.#offset;
    this.#offset += size;
    return start;
  }
}

function parseOneUuid(text: string, pairs: Map<string, [number, number][]>): void {
  const [first = '', ...rest] = text.split(':');
  const uuid = first.trim();
  if (!uuidPattern.test(uuid) || rest.length === 0) throw unreadable(text);
  let key = uuid;
  let hasInterval = false;
  for (const part of rest.map((piece) => piece.trim())) {
    if (tagPattern.test(part)) {
      if (key !== uuid && !hasInterval) throw unreadable(text);
      key = `${uuid}:${part}`;
      hasInterval = false;
      continue;
    }
    const match = intervalPattern.exec(part);
    if (match === null) throw unreadable(text);
    const start = Number(match[1]);
    const end = Number(match[2] ?? match[1]) + 1;
    if (start < 1 || end <= start || !Number.isSafeInteger(end)) throw unreadable(text);
    const list = pairs.get(key) ?? [];
    list.push([start, end]);
    pairs.set(key, list);
    hasInterval = true;
  }
  if (!hasInterval) throw unreadable(text);
}

function encodedKeyBytes(key: string, tagged: boolean): number {
  return uuidBytes + countBytes + (tagged ? 1 + Math.max(0, key.length - 37) : 0);
}

function readU64(bytes: Buffer, offset: number): number {
  const value = bytes.readUInt32LE(offset) + bytes.readUInt32LE(offset + 4) * 2 ** 32;
  if (!Number.isSafeInteger(value)) throw malformed(`has a number beyond 2^53 at byte ${offset}`);
  return value;
}

function writeU64(bytes: Buffer, value: number, offset: number): number {
  bytes.writeUInt32LE(value % 2 ** 32, offset);
  return bytes.writeUInt32LE(Math.floor(value / 2 ** 32), offset + 4);
}

function malformed(what: string) {
  return integrityError(
    'QZ3201',
    `A GTID set ${what}.`,
    'The bytes are damaged or come from a server this version does not know; compare with `SELECT @@gtid_executed` there.',
  );
}

function unreadable(text: string) {
  return configurationError(
    'QZ2104',
    `'${text.slice(0, 120)}' is no GTID set.`,
    'Write it as the server does: 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7, with several servers separated by commas.',
  );
}
