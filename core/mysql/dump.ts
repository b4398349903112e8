/**
 * The raw binlog stream of a server. mysql2 authenticates and sets the session; then its socket is ours: the dump command
 * goes out, and slices of events come in, pulled by the reader (back-pressure reaches the server's TCP window).
 *
 * Wire facts: Binlog_sender in sql/rpl_binlog_sender.cc. The server's file is sent as it is, with three exceptions: an
 * artificial Rotate event (flag 0x20) names each file, a Format_description event is sent again when the dump begins inside a
 * file, and heartbeats (type 27) come while it waits.
 */
import { basename } from 'node:path';
import type { Duplex } from 'node:stream';
import { integrityError, type QazynaError, transientError } from '../errors/error.ts';
import { authenticate, type MysqlEndpoint, placeOf } from './connection.ts';
import { type MysqlPlace, sortMysqlError } from './errors.ts';
import {
  binlogDumpCommand,
  binlogDumpGtidCommand,
  type ControlPacket,
  type EventSink,
  PacketReader,
  registerReplicaCommand,
  semiSyncAck,
} from './packets.ts';

export interface DumpOptions {
  endpoint: MysqlEndpoint;
  file: string;
  /** Offset in the file, an event boundary ≥ 4; any size. */
  position: number;
  /**
   * `follow` waits for more (needs `replica`); `once` ends at the end of the last file. Beyond 4 GiB in a file both need
   * gtid_mode ON.
   */
  mode: 'follow' | 'once';
  /** How the server knows us. Another dump with the same uuid is ended by the server. Only with `follow`. */
  replica?: { serverId: number; uuid: string; host: string };
  semiSync?: boolean;
  /** The server sends a heartbeat after so many ms without an event. Default 1000. */
  heartbeatMs?: number;
  /** No byte for so long: the connection counts as lost. Default 10 heartbeats. */
  silenceMs?: number;
  /** After what came at once and was little, nothing is read for so long: one turn for many small commits. Default 0: at once. */
  restMs?: number;
}

/**
 * Passed to the sink since the last `pump`: then the socket is paused until the next one. Not more, because other turns of the
 * event loop wait meanwhile: an append to the log takes several.
 */
const maxAheadBytes = 512 * 1024;
/** More than that in one turn of the event loop: more waits behind it, as a read of a TLS socket takes no more than this. */
const restBelowBytes = 48 * 1024;

export type PumpResult = 'data' | 'idle' | 'end';

export async function openDump(options: DumpOptions, sink: EventSink, signal: AbortSignal): Promise<BinlogDump> {
  const connection = await authenticate(options.endpoint, signal, true);
  const heartbeatMs = options.heartbeatMs ?? 1000;
  try {
    // Both spellings: replica/source since 8.0.26, slave/master before; unknown user variables do no harm.
    await connection.query(`SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'`);
    await connection.query(
      `SET @master_heartbeat_period = ${heartbeatMs * 1_000_000}, @source_heartbeat_period = ${heartbeatMs * 1_000_000}`,
    );
    // The server's net_write_timeout (60 s) would end the dump while the log is full and we do not read.
    await connection.query('SET SESSION net_write_timeout = 3600');
    if (options.replica)
      await connection.query('SET @slave_uuid = ?, @replica_uuid = ?', [options.replica.uuid, options.replica.uuid]);
    if (options.semiSync) await connection.query('SET @rpl_semi_sync_slave = 1, @rpl_semi_sync_replica = 1');
  } catch (error) {
    await connection.close();
    throw error;
  }
  const dump = new BinlogDump((receive) => connection.takeSocket(receive), sink, options, signal);
  try {
    await dump.start();
  } catch (error) {
    dump.close();
    throw error;
  }
  return dump;
}

export class BinlogDump {
  readonly #socket: Duplex;
  readonly #options: DumpOptions;
  readonly #place: MysqlPlace;
  readonly #signal: AbortSignal;
  readonly #reader: PacketReader;
  /** Bytes passed to the sink since the last `pump`. */
  #aheadBytes = 0;
  /** Received in this turn of the event loop. */
  #burstBytes = 0;
  #paused = false;
  #ended = false;
  #failure: unknown = null;
  #control: ControlPacket | null = null;
  #wake: (() => void) | null = null;
  #interrupted = false;
  #lastByteMs = performance.now();
  readonly #onAbort = () => this.#socket.destroy();

  constructor(
    takeSocket: (receive: (chunk: Buffer) => void) => Duplex,
    sink: EventSink,
    options: DumpOptions,
    signal: AbortSignal,
  ) {
    this.#options = options;
    this.#place = placeOf(options.endpoint);
    this.#signal = signal;
    this.#reader = new PacketReader(
      sink,
      (control) => {
        this.#control = control;
      },
      { semiSync: options.semiSync === true },
    );
    this.#socket = takeSocket((chunk) => this.#receive(chunk));
    signal.addEventListener('abort', this.#onAbort, { once: true });
    this.#socket.on('error', (error) => this.#fail(error));
    for (const event of ['end', 'close'])
      this.#socket.on(event, () => {
        this.#ended = true;
        this.#wake?.();
      });
    this.#socket.resume();
  }

  /** Registers (so that SHOW REPLICAS names us) and asks for the dump. */
  async start(): Promise<void> {
    const { file, position, mode, replica } = this.#options;
    // With a GTID set, though empty, the server takes every GTID event apart: a fifth of the dump's time on its side.
    const command = position < 2 ** 32 ? binlogDumpCommand : binlogDumpGtidCommand;
    if (mode === 'once') {
      this.#socket.write(command({ file, position, serverId: 0, nonBlocking: true }));
    } else {
      if (!replica) throw new Error('a dump that follows needs a replica identity');
      this.#socket.write(registerReplicaCommand({ serverId: replica.serverId, host: replica.host, port: 0 }));
      this.#reader.expectAnswer();
      await this.#answer('registering as a reader of the binlog');
      this.#socket.write(command({ file, position, serverId: replica.serverId, nonBlocking: false }));
    }
    this.#reader.expectEvents();
  }

  /**
   * Resolves with 'data' when something was passed to the sink since the last call; waits for it until `performance.now()`
   * reaches `untilMs`, then 'idle'. 'end' only for mode `once`. At most 512 KiB (and one read) is passed on ahead of the next
   * call. Throws transient errors for what may pass, integrity errors when the server says that the history asked for is not
   * there, and what the sink threw.
   */
  async pump(untilMs: number): Promise<PumpResult> {
    for (;;) {
      this.#signal.throwIfAborted();
      if (this.#failure !== null) throw this.#sorted(this.#failure);
      if (this.#control) return this.#finish(this.#control);
      if (this.#aheadBytes > 0) {
        this.#aheadBytes = 0;
        this.#goOn();
        return 'data';
      }
      this.#checkAlive();
      const nowMs = performance.now();
      if (nowMs >= untilMs || this.#interrupted) {
        this.#interrupted = false;
        return 'idle';
      }
      await this.#wait(Math.min(untilMs - nowMs, 1000));
    }
  }

  /**
   * Semi-sync: everything of the binlog before this position is durable. Said only once the source has asked for it: while we
   * catch up nobody waits.
   */
  acknowledge(file: string, position: number): void {
    if (this.#options.semiSync !== true || !this.#reader.replyWanted || this.#failure !== null || this.#ended) return;
    this.#socket.write(semiSyncAck(file, position));
  }

  /** A waiting `pump` (or the next one that would wait) returns 'idle' at once. */
  interrupt(): void {
    this.#interrupted = true;
    this.#wake?.();
  }

  close(): void {
    this.#signal.removeEventListener('abort', this.#onAbort);
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    if (this.#failure !== null) return;
    this.#lastByteMs = performance.now();
    try {
      this.#reader.feed(chunk);
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#aheadBytes += chunk.length;
    const { restMs = 0 } = this.#options;
    if (restMs > 0 && this.#burstBytes === 0) setImmediate(() => this.#endBurst(restMs));
    this.#burstBytes += chunk.length;
    if (this.#aheadBytes >= maxAheadBytes && !this.#paused) {
      this.#paused = true;
      this.#socket.pause();
    }
    this.#wake?.();
  }

  #endBurst(restMs: number): void {
    const isLittle = this.#burstBytes < restBelowBytes;
    this.#burstBytes = 0;
    if (!isLittle || this.#paused || this.#ended) return;
    this.#socket.pause();
    setTimeout(() => {
      if (!this.#paused) this.#socket.resume();
    }, restMs).unref();
  }

  #goOn(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#lastByteMs = performance.now();
    // At once, libuv would read on in the same turn of the event loop, 8 MiB on end.
    setImmediate(() => {
      if (!this.#paused) this.#socket.resume();
    });
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#socket.destroy();
    this.#wake?.();
  }

  async #wait(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, Math.ceil(ms));
    this.#wake = resolve;
    await promise;
    this.#wake = null;
    clearTimeout(timer);
  }

  async #answer(doing: string): Promise<void> {
    const deadlineMs = performance.now() + 10_000;
    while (this.#control === null) {
      if ((await this.pump(deadlineMs)) === 'idle') throw this.#silent();
    }
    const control = this.#control;
    this.#control = null;
    if (control.type === 'error')
      throw sortMysqlError({ errno: control.errno, message: control.message }, this.#place, doing);
  }

  #finish(control: ControlPacket): PumpResult {
    if (control.type === 'ok') return 'data';
    if (control.type === 'error') throw this.#refusal(control.errno, control.message);
    if (this.#options.mode === 'once') return 'end';
    throw transientError(
      'QZ4121',
      `${this.#place.name} ended the binlog stream.`,
      'It is connected to again; a server that shuts down does this.',
    );
  }

  #refusal(errno: number, message: string): QazynaError {
    const { file, position } = this.#options;
    if (errno === 1236) return sortDumpRefusal(message, this.#place.name, file, position);
    return sortMysqlError({ errno, message }, this.#place, `reading its binlog ${file}`);
  }

  #checkAlive(): void {
    if (this.#ended)
      throw transientError(
        'QZ4121',
        `${this.#place.name} closed the binlog stream.`,
        'It is connected to again; a server that restarts does this.',
      );
    const silenceMs = this.#options.silenceMs ?? 10 * (this.#options.heartbeatMs ?? 1000);
    if (!this.#paused && performance.now() - this.#lastByteMs > silenceMs) throw this.#silent();
  }

  /** Errors of the socket are sorted; those of the sink are sorted already, or bugs. */
  #sorted(failure: unknown): unknown {
    const isNetwork = failure instanceof Error && typeof (failure as NodeJS.ErrnoException).code === 'string';
    return isNetwork ? sortMysqlError(failure, this.#place, 'reading its binlog') : failure;
  }

  #silent(): QazynaError {
    return transientError(
      'QZ4122',
      `${this.#place.name} has sent neither an event nor a heartbeat in time.`,
      'It is connected to again; look at the network between the hosts.',
    );
  }
}

/**
 * ER_SOURCE_FATAL_ERROR_READING_BINLOG (1236) has one number and many reasons; texts from sql/rpl_binlog_sender.cc and
 * share/messages_to_clients.txt.
 */
export function sortDumpRefusal(message: string, server: string, file: string, position: number): QazynaError {
  const details = { file, position, serverMessage: message };
  // Purged, reset, or only shutting down: the checks before the next connection tell which.
  if (/could not find (first|next) log|log is not open/i.test(message))
    return transientError(
      'QZ4126',
      `${server} could not open the binlog file that it should send after ${file}.`,
      'It is connected to again, and its binlog files are compared with what was captured.',
      { details },
    );
  if (/position > file size|impossible position/i.test(message))
    return integrityError(
      'QZ3211',
      `${server} has fewer bytes in ${file} than the ${position} that were captured: the server lost history.`,
      'Find out why (a crash without sync_binlog=1, a restored disk), then go on with `qazyna timeline new --reason …`.',
      { details },
    );
  if (/anonymous/i.test(message)) {
    // Said with gtid_mode ON only, by every dump command (Binlog_sender::check_event_type).
    const [, inFile = file, at = ''] = /at file (\S+), position (\d+)/.exec(message) ?? [];
    const anonymousFile = basename(inFile);
    return integrityError(
      'QZ3212',
      `${server} has a transaction without GTID in ${anonymousFile}${at ? ` at byte ${at}` : ''}.`,
      'Turn gtid_mode ON (`qazyna doctor --fix`). Then go on with `qazyna timeline new --reason …`, or at a first start with `start: current`.',
      { details: { ...details, anonymousFile } },
    );
  }
  if (/same .*uuid|server_uuid/i.test(message))
    return transientError(
      'QZ4123',
      `${server} ended our binlog stream because another reader came with our identity.`,
      'Make sure that only one agent runs for this source.',
      { details },
    );
  return integrityError(
    'QZ3213',
    `${server} cannot read its own binlog ${file} on from byte ${position}: ${message}.`,
    'Examine that file with mysqlbinlog on the server; go on with `qazyna timeline new --reason …` if it is damaged.',
    { details },
  );
}
