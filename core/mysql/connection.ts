/**
 * Connections to a MySQL server: the only place that makes them. Authentication (caching_sha2_password over TLS, over a
 * socket file, and by RSA key without TLS) is mysql2's; sorting its errors and the TLS modes are ours.
 *
 * Wire facts: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html
 */
import { readFile } from 'node:fs/promises';
import { connect as connectPlain, isIP, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { checkServerIdentity, connect as connectTls, type PeerCertificate } from 'node:tls';
import { type Connection, type ConnectionOptions, createConnection, type SslOptions } from 'mysql2';
import { configurationError, QazynaError, transientError } from '../errors/error.ts';
import { type MysqlPlace, sortMysqlError } from './errors.ts';

/** As MySQL's own clients mean them: https://dev.mysql.com/doc/refman/9.7/en/connection-options.html#option_general_ssl-mode */
export type TlsMode = 'disabled' | 'preferred' | 'required' | 'verify_ca' | 'verify_identity';

export interface MysqlTls {
  mode: TlsMode;
  /** PEM files. `caFile` is the authority to trust in verify_ca and verify_identity; else the system's. */
  caFile?: string | undefined;
  certFile?: string | undefined;
  keyFile?: string | undefined;
}

export interface MysqlEndpoint {
  host: string;
  port: number;
  /** A Unix socket file; then host and port do not matter, and TLS is used only when its mode asks for it. */
  socketPath?: string | undefined;
  user: string;
  /** The password itself, never logged. '' for none. */
  password: string;
  /** Default: preferred. */
  tls?: MysqlTls | undefined;
  /** How long connecting and authenticating may take. Default 10 s. */
  connectTimeoutMs?: number | undefined;
}

export type MysqlRow = Record<string, unknown>;

export interface MysqlConnection {
  /** For messages: `the MySQL server db1:3306`. */
  readonly name: string;
  readonly user: string;
  /** As in the greeting, e.g. `9.7.4-2`, `10.11.6-MariaDB-0+deb12u1`. */
  readonly serverVersion: string;
  readonly connectionId: number;
  readonly encrypted: boolean;
  /** GTIDs that the last statement committed, as `uuid:n`; only after `SET SESSION session_track_gtids = 'OWN_GTID'`. */
  readonly ownGtids: readonly string[];
  /**
   * The rows of one statement ([] for statements without a result). Dates come as strings, integers beyond 2^53 too.
   * `timeoutMs` (default 30 s) ends the connection with a transient error.
   */
  query(sql: string, parameters?: readonly unknown[], timeoutMs?: number): Promise<MysqlRow[]>;
  /** The same for results of any size, row by row: no faster than they are taken. `idleMs` (default 10 min): between two rows. */
  stream(sql: string, idleMs?: number): AsyncIterable<MysqlRow>;
  close(): Promise<void>;
}

/** mysql2's connection as it is inside (lib/base/connection.js 3.24): what its type declarations leave out. */
interface ConnectionInside {
  stream: Duplex & { encrypted?: boolean };
  packetParser: { execute(bytes: Buffer): void };
  startTLS(onSecure: (error?: Error) => void): void;
  _handshakePacket: { serverVersion: string; connectionId: number } | null;
  _handleNetworkError(error: Error): void;
}

/** What Node lets nobody choose for a socket that exists. */
type ReadableInside = Duplex & { _readableState: { highWaterMark: number } };

const defaultConnectTimeoutMs = 10_000;
const defaultQueryTimeoutMs = 30_000;
const defaultIdleMs = 600_000;
const streamedRows = 64;

export function placeOf(endpoint: MysqlEndpoint): MysqlPlace {
  const where = endpoint.socketPath ?? `${endpoint.host}:${endpoint.port}`;
  return { name: `the MySQL server ${where}`, user: endpoint.user };
}

/** Connects and authenticates. Throws transient QZ411x, configuration QZ211x; the signal's abort destroys the connection. */
export async function connectMysql(endpoint: MysqlEndpoint, signal: AbortSignal): Promise<MysqlConnection> {
  return await authenticate(endpoint, signal);
}

/** Like `connectMysql`, for one who will take the socket over (dump.ts). */
export async function authenticate(
  endpoint: MysqlEndpoint,
  signal: AbortSignal,
  bulk = false,
): Promise<Mysql2Connection> {
  signal.throwIfAborted();
  const tls = endpoint.tls ?? { mode: 'preferred' };
  const asksForTls = tls.mode !== 'disabled' && !(tls.mode === 'preferred' && endpoint.socketPath);
  if (!asksForTls) return await handshake(endpoint, null, signal, bulk);
  const ssl = await tlsOptions(tls);
  try {
    return await handshake(endpoint, ssl, signal);
  } catch (error) {
    if (tls.mode === 'preferred' && error instanceof QazynaError && error.code === 'QZ2112')
      return await handshake(endpoint, null, signal, bulk);
    throw error;
  }
}

async function tlsOptions(tls: MysqlTls): Promise<SslOptions> {
  const verify = tls.mode === 'verify_ca' || tls.mode === 'verify_identity';
  const options: SslOptions = {
    rejectUnauthorized: verify,
    verifyIdentity: tls.mode === 'verify_identity',
    minVersion: 'TLSv1.2',
  };
  if (tls.caFile) options.ca = await readPem(tls.caFile, 'tls.ca_file');
  if (tls.certFile) options.cert = await readPem(tls.certFile, 'tls.cert_file');
  if (tls.keyFile) options.key = await readPem(tls.keyFile, 'tls.key_file');
  return options;
}

async function readPem(file: string, what: string): Promise<string> {
  const complain = (why: string, cause?: unknown) =>
    configurationError(
      'QZ2118',
      `The file ${file} (${what}) ${why}.`,
      'Give a PEM file that this account may read.',
      cause === undefined ? {} : { cause },
    );
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw complain(`cannot be read (${error.code ?? 'unknown'})`, error);
  });
  if (!text.includes('-----BEGIN ')) throw complain('holds no PEM block');
  return text;
}

async function handshake(
  endpoint: MysqlEndpoint,
  ssl: SslOptions | null,
  signal: AbortSignal,
  bulk = false,
): Promise<Mysql2Connection> {
  const place = placeOf(endpoint);
  const connectTimeout = endpoint.connectTimeoutMs ?? defaultConnectTimeoutMs;
  const options: ConnectionOptions = {
    user: endpoint.user,
    password: endpoint.password,
    connectTimeout,
    supportBigNumbers: true,
    dateStrings: true,
    charset: 'utf8mb4',
    flags: ['-LOCAL_FILES'],
    connectAttributes: { program_name: 'qazyna' },
    ...(endpoint.socketPath ? { socketPath: endpoint.socketPath } : { host: endpoint.host, port: endpoint.port }),
  };
  if (ssl) options.ssl = ssl;
  const socket = bulk ? new BulkSocket(endpoint) : null;
  if (socket) options.stream = socket.stream;
  const connection = createConnection(options);
  const inside = connection as unknown as ConnectionInside;
  if (ssl?.verifyIdentity && isIP(endpoint.host) !== 0) checkIdentityByAddress(inside, ssl, endpoint.host);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const abort = () => reject(signal.reason);
  let isReached = false;
  const deadline = setTimeout(
    () => reject(Object.assign(new Error('no answer in time'), { code: 'ETIMEDOUT' })),
    connectTimeout,
  );
  signal.addEventListener('abort', abort, { once: true });
  inside.stream.once('connect', () => {
    isReached = true;
  });
  connection.once('connect', () => resolve());
  connection.on('error', reject);
  try {
    await promise;
  } catch (error) {
    connection.destroy();
    signal.throwIfAborted();
    if ((error as NodeJS.ErrnoException).code === 'ETIMEDOUT' && isReached) throw notLetIn(place, connectTimeout);
    throw sortMysqlError(error, place, 'connecting');
  } finally {
    clearTimeout(deadline);
    signal.removeEventListener('abort', abort);
  }
  return new Mysql2Connection(connection, place, signal, socket);
}

/**
 * A statement about accounts holds their cache until it is committed (Acl_cache_lock_guard, sql/auth/sql_user_admin.cc), and no
 * client is greeted without that: where it waits for an agent's acknowledgement, the agent that comes to give it is not let in
 * (seen on 9.7).
 */
function notLetIn(place: MysqlPlace, waitedMs: number) {
  return transientError(
    'QZ4116',
    `${place.name} takes connections, and did not let user ${place.user} in within ${waitedMs} ms.`,
    'Where commits wait for the agent (acknowledge_after), a CREATE USER or GRANT that waits while no agent is attached keeps every login waiting, the agent’s too: end mysqld by SIGKILL (told to stop, it would answer OK to all who wait); started again, it has the statement. Else it stands still, or see its load.',
  );
}

/**
 * mysql2 checks the identity of a server that is addressed by number against the name `localhost`. This check is against
 * the address, before the password is sent.
 */
function checkIdentityByAddress(inside: ConnectionInside, ssl: SslOptions, address: string): void {
  inside.startTLS = (onSecure) => {
    inside.stream.removeAllListeners('data');
    let secure = false;
    const socket = connectTls(
      {
        socket: inside.stream,
        rejectUnauthorized: true,
        minVersion: 'TLSv1.2',
        ...(ssl.ca === undefined ? {} : { ca: ssl.ca }),
        ...(ssl.cert === undefined ? {} : { cert: ssl.cert }),
        ...(ssl.key === undefined ? {} : { key: ssl.key }),
        checkServerIdentity: (_host: string, certificate: PeerCertificate) => checkServerIdentity(address, certificate),
      },
      () => {
        secure = true;
        onSecure();
      },
    );
    socket.on('error', (error) => (secure ? inside._handleNetworkError(error) : onSecure(error)));
    socket.on('data', (bytes) => inside.packetParser.execute(bytes));
    inside.stream = socket;
  };
}

/** mysql2 puts the whole statement on its errors, parameters filled in: it may hold a password. */
function withoutStatement(error: Error & { sql?: string }): Error {
  delete error.sql;
  return error;
}

export class Mysql2Connection implements MysqlConnection {
  readonly serverVersion: string;
  readonly connectionId: number;
  readonly encrypted: boolean;
  readonly #connection: Connection;
  readonly #place: MysqlPlace;
  readonly #signal: AbortSignal;
  readonly #abort = () => this.#connection.destroy();
  readonly #bulk: BulkSocket | null;
  #lost: unknown = null;
  ownGtids: readonly string[] = [];

  constructor(connection: Connection, place: MysqlPlace, signal: AbortSignal, bulk: BulkSocket | null) {
    const inside = connection as unknown as ConnectionInside;
    this.#connection = connection;
    this.#bulk = bulk;
    this.#place = place;
    this.#signal = signal;
    this.serverVersion = inside._handshakePacket?.serverVersion ?? '';
    this.connectionId = inside._handshakePacket?.connectionId ?? 0;
    this.encrypted = inside.stream.encrypted === true;
    connection.removeAllListeners('error');
    connection.on('error', (error) => {
      this.#lost ??= error;
    });
    signal.addEventListener('abort', this.#abort, { once: true });
  }

  get name(): string {
    return this.#place.name;
  }

  get user(): string {
    return this.#place.user;
  }

  async query(
    sql: string,
    parameters: readonly unknown[] = [],
    timeoutMs = defaultQueryTimeoutMs,
  ): Promise<MysqlRow[]> {
    this.#signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<MysqlRow[]>();
    const abort = () => reject(this.#signal.reason);
    const deadline = setTimeout(() => {
      reject(
        transientError(
          'QZ4114',
          `${this.name} did not answer within ${timeoutMs} ms.`,
          'It is tried again; see the load of the server.',
          { details: { statement: sql.slice(0, 80) } },
        ),
      );
      this.#connection.destroy();
    }, timeoutMs);
    this.#signal.addEventListener('abort', abort, { once: true });
    try {
      this.#connection.query(sql, [...parameters], (error, rows) => {
        if (error) return reject(withoutStatement(error));
        this.ownGtids = gtidsIn(rows);
        resolve(Array.isArray(rows) ? (rows as MysqlRow[]) : []);
      });
      return await promise;
    } catch (error) {
      this.#signal.throwIfAborted();
      throw sortMysqlError(this.#lost ?? error, this.#place, `running ${sql.replace(/\s+/g, ' ').slice(0, 60)}`);
    } finally {
      clearTimeout(deadline);
      this.#signal.removeEventListener('abort', abort);
    }
  }

  async *stream(sql: string, idleMs = defaultIdleMs): AsyncGenerator<MysqlRow> {
    this.#signal.throwIfAborted();
    const rows = this.#connection.query(sql).stream({ highWaterMark: streamedRows });
    const idle = setTimeout(() => this.#connection.destroy(), idleMs);
    const abort = () => rows.destroy(this.#signal.reason);
    this.#signal.addEventListener('abort', abort, { once: true });
    let isWhole = false;
    try {
      for await (const row of rows) {
        yield row as MysqlRow;
        idle.refresh();
      }
      isWhole = true;
    } catch (error) {
      this.#signal.throwIfAborted();
      if (error instanceof Error) withoutStatement(error);
      throw sortMysqlError(this.#lost ?? error, this.#place, 'reading rows');
    } finally {
      clearTimeout(idle);
      this.#signal.removeEventListener('abort', abort);
      // The rest of a result that nobody wants would stand in the way of the next statement.
      if (!isWhole) this.#connection.destroy();
    }
  }

  async close(): Promise<void> {
    this.#signal.removeEventListener('abort', this.#abort);
    if (this.#lost !== null) return this.#connection.destroy();
    const { promise, resolve } = Promise.withResolvers<void>();
    const giveUp = setTimeout(resolve, 1000);
    this.#connection.end(() => resolve());
    await promise;
    clearTimeout(giveUp);
    this.#connection.destroy();
  }

  /**
   * The authenticated socket, without mysql2: from now on its owner writes and destroys it, and gets every chunk that arrives,
   * valid only during the call. No query may be running.
   */
  takeSocket(receive: (chunk: Buffer) => void): Duplex {
    this.#signal.removeEventListener('abort', this.#abort);
    const { stream } = this.#connection as unknown as ConnectionInside;
    // mysql2's listeners for end, close and error stay: they only note the loss. Its 'data' listener is its parser.
    stream.removeAllListeners('data');
    if (this.#bulk) this.#bulk.receive = receive;
    else {
      // Paused, it would read on until so much waits in it, by default 64 KiB: many small reads, which a pause is to spare.
      (stream as ReadableInside)._readableState.highWaterMark = 1;
      stream.on('data', receive);
    }
    return stream;
  }
}

/** From the OK packet's session state (MySQL source, "SESSION_TRACK_GTIDS"); mysql2 leaves `stateChanges` untyped. */
function gtidsIn(result: unknown): readonly string[] {
  const { stateChanges } = result as { stateChanges?: { gtids?: string[] } };
  return stateChanges?.gtids ?? [];
}

const bulkReadBytes = 512 * 1024;

/**
 * A plain socket that reads into one buffer, over and over: a dump of gigabytes then leaves no garbage. Until `receive` is
 * set it behaves as any socket does, for mysql2's handshake.
 */
class BulkSocket {
  readonly stream: Socket;
  receive: ((chunk: Buffer) => void) | null = null;

  constructor(endpoint: MysqlEndpoint) {
    const onread = {
      buffer: Buffer.allocUnsafeSlow(bulkReadBytes),
      callback: (size: number, buffer: Uint8Array) => {
        const chunk = Buffer.from(buffer.buffer, buffer.byteOffset, size);
        if (this.receive) this.receive(chunk);
        else this.stream.emit('data', Buffer.from(chunk));
        return true;
      },
    };
    this.stream = endpoint.socketPath
      ? connectPlain({ path: endpoint.socketPath, onread })
      : connectPlain({ host: endpoint.host, port: endpoint.port, onread });
    this.stream.setNoDelay(true);
    this.stream.setKeepAlive(true);
  }
}
