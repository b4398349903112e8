/**
 * One client of the stream server, from its greeting to its dump.
 *
 * What a replica's I/O thread asks, in this order: UNIX_TIMESTAMP, SERVER_ID, heartbeat period (ns), checksum (set, then
 * read back), GTID_MODE, SERVER_UUID, its own UUID, COM_REGISTER_SLAVE, semi-sync (refused by 1193, which it tolerates),
 * COM_BINLOG_DUMP_GTID (get_master_version_and_clock and friends in sql/rpl_replica.cc).
 */
import { GtidSet } from '../binlog/gtid-set.ts';
import type { Channel } from './channel.ts';
import type { DumpRequest } from './dump.ts';
import {
  binaryResultSet,
  command,
  errPacket,
  malformed,
  okPacket,
  PayloadReader,
  prepareOk,
  type ResultSet,
  serverError,
  textResultSet,
} from './packets.ts';
import { nextTurn } from './waits.ts';

export interface SessionFacts {
  serverId: number;
  serverUuid: string;
  serverVersion: string;
  /** Answers what the server itself does not; null → the client is told that the variable or statement is unknown. */
  answer: (query: string) => ResultSet | null | Promise<ResultSet | null>;
  /** Between two commands. */
  commandDeadlineMs: number;
  /** Awaited before a command of more than 64 KiB is read, which only a GTID set can be; throws to refuse it. */
  admitLarge: () => Promise<void>;
}

export interface Replica {
  serverId: number;
  uuid: string;
  heartbeatMs: number;
  /** What it answered to the question for checksums: decides about the first artificial Rotate. */
  checksum: boolean;
}

const dumpNonBlocking = 0x01;
const dumpHeartbeatV2 = 0x02;
const dumpThroughGtid = 0x04;
const defaultHeartbeatMs = 10_000;
const minHeartbeatMs = 100;
/** From a command's first bytes to its last. */
const commandRestMs = 30_000;
/** All but GTID sets. */
const maxCommandBytes = 64 * 1024;
/** Half a million intervals. */
const maxGtidCommandBytes = 8 * 1024 * 1024 + 1024;
const maxGtidKeys = 10_000;
const maxStatements = 16;
const maxParameters = 64;
const maxSelected = 64;
const maxFileNameBytes = 512;
const maxVariables = 64;
const maxVariableLength = 256;
const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const setVariable = /@(\w+)\s*:?=\s*('[^']*'|@@(?:global\.)?\w+|[\w.+-]+)/gi;

export class Session {
  readonly replica: Replica = { serverId: 0, uuid: '', heartbeatMs: defaultHeartbeatMs, checksum: false };
  readonly #channel: Channel;
  readonly #facts: SessionFacts;
  readonly #variables = new Map<string, string>();
  readonly #statements = new Map<number, string>();
  #lastStatement = 0;

  constructor(channel: Channel, facts: SessionFacts) {
    this.#channel = channel;
    this.#facts = facts;
  }

  #command(): Promise<Buffer | null> {
    const ask = async (firstByte: number) => {
      if (firstByte !== command.binlogDumpGtid) throw malformed(`command ${firstByte} of more than 64 KiB`);
      await this.#facts.admitLarge();
    };
    return this.#channel.read({
      maxBytes: maxGtidCommandBytes,
      deadlineMs: this.#facts.commandDeadlineMs,
      restMs: commandRestMs,
      startsCommand: true,
      large: { aboveBytes: maxCommandBytes, ask },
    });
  }

  /** Answers commands until one asks for a dump; null when the client leaves. */
  async untilDump(): Promise<DumpRequest | null> {
    for (;;) {
      const payload = await this.#command();
      // A client that sends a thousand questions at once takes its turns with the others.
      await nextTurn();
      if (payload === null || payload[0] === command.quit) return null;
      const reader = new PayloadReader(payload, 1);
      switch (payload[0]) {
        case command.query:
          await this.#query(reader.rest().toString('utf8'), false);
          break;
        case command.ping:
        case command.initDb:
          await this.#channel.send(okPacket());
          break;
        case command.registerReplica:
          this.replica.serverId = reader.u32();
          await this.#channel.send(okPacket());
          break;
        case command.stmtPrepare:
          await this.#prepare(reader.rest().toString('utf8'));
          break;
        case command.stmtExecute:
          await this.#execute(reader);
          break;
        case command.stmtClose:
          this.#statements.delete(reader.u32());
          break;
        case command.binlogDump:
          return this.#dumpByPosition(reader);
        case command.binlogDumpGtid:
          return this.#dumpByGtid(reader);
        default:
          await this.#channel.send(
            errPacket(serverError.unknownCommand, `Command ${payload[0] ?? 'none'} is not served here.`),
          );
      }
    }
  }

  /** COM_BINLOG_DUMP: position u32, flags u16, server_id u32, file name to the end. */
  #dumpByPosition(reader: PayloadReader): DumpRequest {
    const position = reader.u32();
    const flags = reader.u16();
    const serverId = reader.u32();
    return { ...this.#dumpFlags(flags, serverId), file: reader.untilNul().toString('latin1'), position, gtids: null };
  }

  /** COM_BINLOG_DUMP_GTID: flags u16, server_id u32, name length u32, name, position u64, set length u32, set. */
  #dumpByGtid(reader: PayloadReader): DumpRequest {
    const flags = reader.u16();
    const serverId = reader.u32();
    const nameBytes = reader.u32();
    if (nameBytes > maxFileNameBytes) throw malformed(`a file name of ${nameBytes} bytes`);
    const file = reader.bytes(nameBytes).toString('latin1').replace(/\0.*$/s, '');
    const position = reader.u64();
    // Clients older than the flag send the set all the same; without bytes it is the empty one.
    const setBytes = reader.left >= 4 ? reader.bytes(reader.u32()) : Buffer.alloc(0);
    if (setBytes.length === 0 && (flags & dumpThroughGtid) !== 0) throw malformed('a dump by GTID without a set');
    const gtids = setBytes.length === 0 ? new GtidSet() : decodeSet(setBytes);
    return { ...this.#dumpFlags(flags, serverId), file, position, gtids };
  }

  #dumpFlags(flags: number, serverId: number) {
    this.replica.serverId = serverId;
    const wantsV2 = (flags & dumpHeartbeatV2) !== 0;
    // server_id 0 is how mysqlbinlog has always said that it does not wait.
    const nonBlocking = (flags & dumpNonBlocking) !== 0 || serverId === 0;
    return { replicaServerId: serverId, nonBlocking, heartbeatV2: wantsV2 };
  }

  async #query(sql: string, isBinary: boolean): Promise<void> {
    const text = sql.trim().replace(/;$/, '');
    if (/^set\s/i.test(text)) return await this.#set(text);
    const variables = variablesAskedFor(text);
    let result: ResultSet | null = null;
    let unknown = '';
    if (variables !== null) {
      const values = variables.map(({ name }) => this.#valueOf(name));
      unknown = variables[values.indexOf(undefined)]?.name ?? '';
      if (unknown === '') {
        result = { columns: variables.map(({ label }) => label), rows: [values.map((value) => value ?? null)] };
      }
    }
    result ??= await this.#facts.answer(text);
    if (result !== null) {
      await this.#channel.send(...(isBinary ? binaryResultSet(result) : textResultSet(result)));
    } else if (variables !== null) {
      await this.#channel.send(
        errPacket(serverError.unknownVariable, `Unknown system variable '${unknown.replace(/^@+(global\.)?/, '')}'`),
      );
    } else {
      const shown = text.replace(/\s+/g, ' ').slice(0, 80);
      await this.#channel.send(
        errPacket(serverError.notSupported, `This server only serves a binlog; it does not run '${shown}'.`),
      );
    }
  }

  /** Undefined for what is unknown; null for a user variable never set. */
  #valueOf(expression: string): string | number | null | undefined {
    const name = expression.toLowerCase().replace(/^@@(global|session)\./, '@@');
    switch (name) {
      case 'unix_timestamp()':
        return Math.floor(Date.now() / 1000);
      case 'version()':
      case '@@version':
        return this.#facts.serverVersion;
      case '1':
        return 1;
      case '@@server_id':
        return this.#facts.serverId;
      case '@@server_uuid':
        return this.#facts.serverUuid;
      case '@@gtid_mode':
        return 'ON';
      case '@@binlog_checksum':
        return 'CRC32';
      case '@@max_allowed_packet':
        return 1024 * 1024 * 1024;
      default:
        return /^@\w/.test(name) ? (this.#variables.get(name.slice(1)) ?? null) : undefined;
    }
  }

  async #set(text: string): Promise<void> {
    if (/^set\s+names\b/i.test(text)) return await this.#channel.send(okPacket());
    for (const [, name = '', value = ''] of text.matchAll(setVariable)) {
      const known = value.startsWith('@@') ? this.#valueOf(value) : value.replace(/^'|'$/g, '');
      if (this.#variables.size >= maxVariables) break;
      this.#variables.set(name.toLowerCase(), String(known ?? '').slice(0, maxVariableLength));
    }
    const of = (...names: string[]) =>
      names.map((name) => this.#variables.get(name)).find((value) => value !== undefined);
    const periodNs = Number(of('source_heartbeat_period', 'master_heartbeat_period') ?? 0);
    if (periodNs > 0) this.replica.heartbeatMs = Math.max(minHeartbeatMs, periodNs / 1e6);
    this.replica.checksum = (of('source_binlog_checksum', 'master_binlog_checksum') ?? '').toUpperCase() === 'CRC32';
    const uuid = (of('replica_uuid', 'slave_uuid') ?? '').toLowerCase();
    this.replica.uuid = uuidPattern.test(uuid) ? uuid : '';
    await this.#channel.send(okPacket());
  }

  async #prepare(sql: string): Promise<void> {
    const parameters = sql.split('?', maxParameters + 2).length - 1;
    if (this.#statements.size >= maxStatements) throw malformed('too many prepared statements');
    if (parameters > maxParameters) throw malformed('a statement with too many parameters');
    this.#statements.set(++this.#lastStatement, sql);
    await this.#channel.send(...prepareOk(this.#lastStatement, parameters));
  }

  /** Parameters as strings only: that is what clients send that ask for columns of a table. */
  async #execute(reader: PayloadReader): Promise<void> {
    const sql = this.#statements.get(reader.u32());
    if (sql === undefined) throw malformed('an unknown statement');
    const pieces = sql.split('?');
    const count = pieces.length - 1;
    reader.skip(5);
    const nulls = count > 0 ? reader.bytes((count + 7) >> 3) : Buffer.alloc(0);
    if (count > 0) {
      if (reader.u8() !== 1) throw malformed('parameters without types');
      reader.skip(count * 2);
    }
    let text = pieces[0] ?? '';
    for (let index = 0; index < count; index++) {
      const isNull = ((nulls[index >> 3] ?? 0) & (1 << (index & 7))) !== 0;
      const value = isNull ? 'NULL' : `'${reader.bytes(reader.lenenc()).toString('utf8').replace(/['\\]/g, '\\$&')}'`;
      text += value + (pieces[index + 1] ?? '');
    }
    await this.#query(text, true);
  }
}

/** `SELECT a [AS b], …` of things that need no table; null for every other statement. */
function variablesAskedFor(text: string): { name: string; label: string }[] | null {
  const match = /^select\s+(.+)$/is.exec(text);
  if (!match?.[1] || /\bfrom\b/i.test(text)) return null;
  const found: { name: string; label: string }[] = [];
  const items = match[1].split(',', maxSelected + 1);
  if (items.length > maxSelected) return null;
  for (const item of items) {
    const parts =
      /^\s*(@{1,2}[\w.]+|unix_timestamp\(\)|version\(\)|1)(?:\s+(?:as\s+)?[`'"]?(\w+)[`'"]?)?\s*(?:limit 1)?$/i.exec(
        item,
      );
    if (!parts?.[1]) return null;
    found.push({ name: parts[1], label: parts[2] ?? parts[1] });
  }
  return found;
}

/** What a client sends is its own doing, not damage of the history. */
function decodeSet(bytes: Buffer): GtidSet {
  try {
    return GtidSet.decode(bytes, maxGtidKeys);
  } catch (error) {
    throw malformed(`a set that cannot be read (${error instanceof Error ? error.message : error})`);
  }
}
