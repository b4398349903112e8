/**
 * The MySQL client/server protocol as a source speaks it: payloads as pure bytes. Framing lives in channel.ts.
 *
 * Wire facts: MySQL Internals, "Client/Server Protocol" (page_protocol_basic_packets, page_protocol_com_query_response,
 * page_protocol_com_stmt_prepare) and sql/protocol_classic.cc. We never offer CLIENT_DEPRECATE_EOF, so result sets always
 * end in EOF packets, whatever the client would understand.
 */
import { transientError } from '../errors/error.ts';

export const capability = {
  longPassword: 1,
  foundRows: 1 << 1,
  longFlag: 1 << 2,
  connectWithDb: 1 << 3,
  compress: 1 << 5,
  protocol41: 1 << 9,
  ssl: 1 << 11,
  transactions: 1 << 13,
  secureConnection: 1 << 15,
  pluginAuth: 1 << 19,
  connectAttributes: 1 << 20,
  pluginAuthLenencData: 1 << 21,
} as const;

export const command = {
  quit: 0x01,
  initDb: 0x02,
  query: 0x03,
  ping: 0x0e,
  binlogDump: 0x12,
  registerReplica: 0x15,
  stmtPrepare: 0x16,
  stmtExecute: 0x17,
  stmtClose: 0x19,
  binlogDumpGtid: 0x1e,
} as const;

/** Error numbers a replica acts on (share/messages_to_clients.txt): 1193 is tolerated by it, 1236 stops it for good. */
export const serverError = {
  accessDenied: { number: 1045, state: '28000' },
  unknownCommand: { number: 1047, state: '08S01' },
  packetsOutOfOrder: { number: 1156, state: '08S01' },
  tooManyConnections: { number: 1040, state: '08004' },
  unknownVariable: { number: 1193, state: 'HY000' },
  notSupported: { number: 1235, state: '42000' },
  cannotReadBinlog: { number: 1236, state: 'HY000' },
  secureTransportRequired: { number: 3159, state: 'HY000' },
} as const;
export type ServerErrorKind = (typeof serverError)[keyof typeof serverError];

export interface ResultSet {
  columns: readonly string[];
  rows: readonly (readonly (string | number | null)[])[];
}

const statusAutocommit = 0x0002;
const charsetUtf8mb4 = 255;
const typeVarString = 0xfd;

export function okPacket(): Buffer {
  return Buffer.from([0x00, 0, 0, statusAutocommit, 0, 0, 0]);
}

export function eofPacket(): Buffer {
  return Buffer.from([0xfe, 0, 0, statusAutocommit, 0]);
}

/** Message cut at 512 bytes: MYSQL_ERRMSG_SIZE of the client. */
export function errPacket(error: ServerErrorKind, message: string): Buffer {
  const text = Buffer.from(message).subarray(0, 511);
  const packet = Buffer.allocUnsafe(9 + text.length);
  packet.writeUInt8(0xff, 0);
  packet.writeUInt16LE(error.number, 1);
  packet.write(`#${error.state}`, 3, 'latin1');
  text.copy(packet, 9);
  return packet;
}

export function lenencInteger(value: number): Buffer {
  if (value < 251) return Buffer.from([value]);
  if (value < 0x10000) return Buffer.from([0xfc, value & 0xff, value >>> 8]);
  if (value < 0x1000000) return Buffer.from([0xfd, value & 0xff, (value >>> 8) & 0xff, value >>> 16]);
  const wide = Buffer.allocUnsafe(9);
  wide.writeUInt8(0xfe, 0);
  wide.writeBigUInt64LE(BigInt(value), 1);
  return wide;
}

export function lenencString(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([lenencInteger(bytes.length), bytes]);
}

/** The packets of a text-protocol result set; every value travels as VAR_STRING. */
export function textResultSet(result: ResultSet): Buffer[] {
  const rows = result.rows.map((row) =>
    Buffer.concat(row.map((value) => (value === null ? Buffer.from([0xfb]) : lenencString(String(value))))),
  );
  return [
    lenencInteger(result.columns.length),
    ...columnDefinitions(result.columns),
    eofPacket(),
    ...rows,
    eofPacket(),
  ];
}

/** The same in the binary protocol (COM_STMT_EXECUTE): a null bitmap with two reserved bits, then the values. */
export function binaryResultSet(result: ResultSet): Buffer[] {
  const rows = result.rows.map((row) => {
    const head = Buffer.alloc(1 + ((row.length + 9) >> 3));
    row.forEach((value, index) => {
      const at = 1 + ((index + 2) >> 3);
      if (value === null) head.writeUInt8(head.readUInt8(at) | (1 << ((index + 2) & 7)), at);
    });
    return Buffer.concat([head, ...row.filter((value) => value !== null).map((value) => lenencString(String(value)))]);
  });
  return [
    lenencInteger(result.columns.length),
    ...columnDefinitions(result.columns),
    eofPacket(),
    ...rows,
    eofPacket(),
  ];
}

/** COM_STMT_PREPARE_OK: columns are announced only with the result, as the protocol allows. */
export function prepareOk(statementId: number, parameters: number): Buffer[] {
  const head = Buffer.alloc(12);
  head.writeUInt32LE(statementId, 1);
  head.writeUInt16LE(parameters, 7);
  if (parameters === 0) return [head];
  return [head, ...columnDefinitions(Array.from({ length: parameters }, () => '?')), eofPacket()];
}

function columnDefinitions(names: readonly string[]): Buffer[] {
  const fixed = Buffer.alloc(13);
  fixed.writeUInt8(0x0c, 0);
  fixed.writeUInt16LE(charsetUtf8mb4, 1);
  fixed.writeUInt32LE(0xffff, 3);
  fixed.writeUInt8(typeVarString, 7);
  return names.map((name) =>
    Buffer.concat([
      lenencString('def'),
      ...['', '', ''].map(lenencString),
      lenencString(name),
      lenencString(name),
      fixed,
    ]),
  );
}

/** Reads one payload from a client, front to back. Everything is checked against the bytes at hand (QZ4701). */
export class PayloadReader {
  readonly #bytes: Buffer;
  #offset: number;

  constructor(bytes: Buffer, offset = 0) {
    this.#bytes = bytes;
    this.#offset = offset;
  }

  get left(): number {
    return this.#bytes.length - this.#offset;
  }

  u8(): number {
    return this.#bytes.readUInt8(this.#take(1));
  }

  u16(): number {
    return this.#bytes.readUInt16LE(this.#take(2));
  }

  u32(): number {
    return this.#bytes.readUInt32LE(this.#take(4));
  }

  u64(): number {
    const at = this.#take(8);
    const value = this.#bytes.readUInt32LE(at) + this.#bytes.readUInt32LE(at + 4) * 2 ** 32;
    if (!Number.isSafeInteger(value)) throw malformed('a number beyond 2^53');
    return value;
  }

  lenenc(): number {
    const first = this.u8();
    if (first < 251) return first;
    if (first === 0xfc) return this.u16();
    if (first === 0xfd) return this.#bytes.readUIntLE(this.#take(3), 3);
    if (first === 0xfe) return this.u64();
    throw malformed(`the length byte ${first}`);
  }

  bytes(length: number): Buffer {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  rest(): Buffer {
    return this.bytes(this.left);
  }

  /** Up to the next NUL, which is consumed; the whole rest when there is none. */
  untilNul(): Buffer {
    const end = this.#bytes.indexOf(0, this.#offset);
    if (end < 0) return this.rest();
    const found = this.bytes(end - this.#offset);
    this.#offset += 1;
    return found;
  }

  skip(length: number): void {
    this.#take(length);
  }

  #take(length: number): number {
    if (length > this.left) throw malformed(`${length} bytes where ${this.left} are left`);
    const at = this.#offset;
    this.#offset += length;
    return at;
  }
}

export function malformed(what: string) {
  return transientError(
    'QZ4701',
    `A client of the stream server sent ${what} and was disconnected.`,
    'It is no MySQL replica, or something between alters its packets; a real replica reconnects by itself.',
  );
}
