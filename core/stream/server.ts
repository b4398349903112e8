/**
 * The stream server: a MySQL source as far as a replica can see, fed from a `BinlogSource`. Several replicas at once; each
 * connection stands alone, and whatever a client does, it can only lose its own connection.
 */
import { createHash } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import { createSecureContext, type SecureContext } from 'node:tls';
import { firstEventOffset } from '../binlog/events.ts';
import { configurationError, integrityError, isKind } from '../errors/error.ts';
import type { Logger } from '../logging/logger.ts';
import { Admission, type AdmissionLimits, LargeSets, LineGate } from './admission.ts';
import type { Credentials } from './auth.ts';
import { type CertificateAndKey, selfSignedCertificate } from './certificate.ts';
import { Channel } from './channel.ts';
import { chooseFile, nothingYet, refuseOwnServerId } from './choose-file.ts';
import { Dump, type DumpRequest } from './dump.ts';
import { handshake, welcome } from './handshake.ts';
import { errPacket, malformed, type ResultSet, serverError } from './packets.ts';
import { type Replica, Session } from './session.ts';
import type { BinlogSource, StreamFile } from './types.ts';

export interface StreamLimits extends AdmissionLimits {
  loginDeadlineMs: number;
  maxLoginPacketBytes: number;
  /** How long a wrong login waits for its answer. */
  refusalDelayMs: number;
  /** Between two commands. A dump has no such limit: it is watched by heartbeats and the write deadline. */
  commandDeadlineMs: number;
  writeDeadlineMs: number;
}

const defaultLimits: StreamLimits = {
  maxConnections: 64,
  maxLogins: 64,
  maxLoginsPerAddress: 16,
  loginDeadlineMs: 10_000,
  maxLoginPacketBytes: 64 * 1024,
  refusalDelayMs: 1000,
  commandDeadlineMs: 3_600_000,
  writeDeadlineMs: 300_000,
};
const maxIgnoredBytes = 64 * 1024 * 1024;
/** Sockets beyond those admitted, on their way out: what is above is closed before it costs anything. */
const spareSockets = 64;
/** Of GTID sets beyond 64 KiB: half a million intervals take some 40 ms to read, and 8 MB for as long as they are served. */
const largeSets = { maxAtOnce: 2, everyMs: 250, deadlineMs: 20_000 };
const maxShownLength = 1000;
const logGate = { maxLines: 30, everyMs: 10_000 };

/** Why a dump was ended: the same replica asked for another one. */
const twinned = Symbol('twinned');
/** So long the one that is driven out may take to hear why. */
const twinMs = 1000;

export interface StreamServerOptions {
  source: BinlogSource;
  /** One account, or several. */
  credentials: Credentials | readonly Credentials[];
  logger: Logger;
  /** Names this instance of history (a chain id, say): our server UUID and server_id follow from it. */
  identity: string;
  /** Default 127.0.0.1 and a port the system chooses. */
  host?: string;
  port?: number;
  /** Default: made in memory for this server. null: no TLS at all. */
  certificate?: CertificateAndKey | null;
  requireTls?: boolean;
  fullAuthentication?: boolean;
  /** What clients other than replicas ask (SHOW BINARY LOGS, columns of a table …); null → refused as unknown. */
  answer?: (query: string) => ResultSet | null | Promise<ResultSet | null>;
  /**
   * Told of every error that is not a client's own doing, e.g. a damaged segment, and of a client that can never be served
   * (QZ3704 to QZ3708); `user`: whose it was, null when it was nobody's.
   */
  onFault?: (error: unknown, user: string | null) => void;
  limits?: Partial<StreamLimits>;
}

export interface StreamServer {
  readonly host: string;
  readonly port: number;
  readonly serverId: number;
  readonly serverUuid: string;
  /** PEM of the certificate in use; null without TLS. */
  readonly certificatePem: string | null;
  /** Replicas being served now. */
  replicas(): readonly Readonly<Replica>[];
  /** Drops every connection and frees the port. */
  close(): Promise<void>;
}

/** Listens once resolved. QZ2701 when it cannot, QZ2702 when the certificate is of no use. */
export async function startStreamServer(options: StreamServerOptions): Promise<StreamServer> {
  const running = new RunningServer(options);
  await running.listen();
  return running;
}

class RunningServer implements StreamServer {
  readonly host: string;
  readonly serverId: number;
  readonly serverUuid: string;
  readonly certificatePem: string | null;
  readonly #options: StreamServerOptions;
  readonly #limits: StreamLimits;
  readonly #server: Server;
  readonly #secureContext: SecureContext | null;
  readonly #admission: Admission;
  readonly #largeSets = new LargeSets(largeSets);
  readonly #gate: LineGate;
  readonly #dumps = new Map<Channel, { replica: Replica; stop: AbortController }>();
  #connections = 0;
  #isClosed = false;

  constructor(options: StreamServerOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.host = options.host ?? '127.0.0.1';
    const { uuid, serverId } = identityOf(options.identity, options.source.serverIds);
    this.serverUuid = uuid;
    this.serverId = serverId;
    const certificate =
      options.certificate === undefined ? selfSignedCertificate('qazyna stream server', 3650) : options.certificate;
    this.certificatePem = certificate?.certPem ?? null;
    this.#secureContext = certificate === null ? null : secureContextOf(certificate);
    this.#admission = new Admission(this.#limits);
    const more = (kept: number) =>
      options.logger.warn(`${kept} more lines about clients were kept back`, { component: 'stream' });
    this.#gate = new LineGate({ ...logGate, more });
    this.#server = createServer({ noDelay: true, pauseOnConnect: false }, (socket) => this.#accept(socket));
    this.#server.maxConnections = this.#limits.maxConnections + this.#limits.maxLogins + spareSockets;
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  async listen(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once('error', reject);
    this.#server.listen({ host: this.host, port: this.#options.port ?? 0 }, resolve);
    try {
      await promise;
    } catch (error) {
      throw configurationError(
        'QZ2701',
        `The stream server cannot listen on ${this.host}:${this.#options.port ?? 0}: ${(error as Error).message}.`,
        'Choose an address of this machine and a free port.',
        { cause: error },
      );
    }
    this.#server.removeAllListeners('error');
    this.#server.on('error', (error) => this.#options.onFault?.(error, null));
    this.#server.on('drop', () => this.#note('warn', 'a connection was closed at once: there are too many'));
  }

  replicas(): readonly Replica[] {
    return [...this.#dumps.values()].map(({ replica }) => replica);
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const { stop } of this.#dumps.values()) stop.abort();
    for (const channel of [...this.#admission.channels()]) channel.destroy();
    await closed;
  }

  #accept(socket: Socket): void {
    const channel = new Channel(socket);
    if (this.#isClosed) {
      channel.destroy();
      return;
    }
    const gone = new AbortController();
    channel.onClose(() => gone.abort());
    if (this.#admission.enter(channel) > 0) this.#note('warn', `${channel.address} has too many connections`);
    socket.setKeepAlive(true, 30_000);
    let user: string | null = null;
    const known = (name: string) => {
      user = name;
    };
    void this.#serve(channel, gone.signal, known)
      .catch((error: unknown) => this.#report(channel, error, user))
      .finally(() => {
        this.#admission.leave(channel);
        channel.end();
      });
  }

  async #serve(channel: Channel, gone: AbortSignal, known: (user: string) => void): Promise<void> {
    const user = await this.#login(channel, gone);
    if (user === null) return;
    known(user);
    const { options, limits } = { options: this.#options, limits: this.#limits };
    let leaveLarge = () => {};
    const session = new Session(channel, {
      serverId: this.serverId,
      serverUuid: this.serverUuid,
      serverVersion: options.source.serverVersion,
      answer: options.answer ?? (() => null),
      commandDeadlineMs: limits.commandDeadlineMs,
      admitLarge: async () => {
        const leave = await this.#largeSets.enter(gone);
        if (leave === null) throw malformed('a large GTID set while others are being served');
        leaveLarge = leave;
      },
    });
    try {
      const request = await session.untilDump();
      if (request !== null) await this.#dump(channel, session.replica, request);
    } finally {
      leaveLarge();
    }
  }

  /** The user's name once it is in and knows it. */
  async #login(channel: Channel, gone: AbortSignal): Promise<string | null> {
    const { options, limits } = { options: this.#options, limits: this.#limits };
    const user = await handshake(channel, {
      accounts: [options.credentials].flat(),
      serverVersion: `${options.source.serverVersion}-qazyna`,
      connectionId: ++this.#connections,
      secureContext: this.#secureContext,
      requireTls: options.requireTls ?? false,
      fullAuthentication: options.fullAuthentication ?? false,
      deadlineMs: limits.loginDeadlineMs,
      maxPacketBytes: limits.maxLoginPacketBytes,
      refusalDelayMs: limits.refusalDelayMs,
      signal: gone,
    });
    if (user === null) {
      this.#note('warn', `a client at ${channel.peer} was not let in`);
      return null;
    }
    if (this.#admission.join(channel)) {
      await welcome(channel);
      return user;
    }
    this.#note('warn', `${channel.peer} was refused: there are ${limits.maxConnections} clients already`);
    await channel.send(errPacket(serverError.tooManyConnections, 'Too many connections'));
    return null;
  }

  async #dump(channel: Channel, replica: Replica, request: DumpRequest): Promise<void> {
    const stop = new AbortController();
    channel.onClose(() => stop.abort());
    channel.ignoreInput(maxIgnoredBytes);
    this.#admission.serve(channel);
    this.#replaceTwin(replica);
    this.#dumps.set(channel, { replica, stop });
    const { source } = this.#options;
    let dump: Dump | null = null;
    try {
      const file = await this.#fileFor(request);
      this.#note('info', `replica ${channel.peer} begins`, {
        serverId: replica.serverId,
        file: file.name,
        position: request.gtids === null ? request.position : undefined,
      });
      const context = {
        source,
        serverId: this.serverId,
        checksum: replica.checksum,
        heartbeatMs: replica.heartbeatMs,
        writeDeadlineMs: this.#limits.writeDeadlineMs,
      };
      dump = new Dump(channel, context, request, file, stop.signal);
      await dump.run();
      if (stop.signal.reason === twinned) throw sameUuid(replica.uuid);
    } catch (error) {
      // What will not heal stops the replica with the reason; anything else drops the connection, and it comes back.
      if (isKind(error, 'integrity') && (dump === null || (await dump.comeToAnEnd()))) {
        await channel.send(errPacket(serverError.cannotReadBinlog, error.message));
      }
      throw error;
    } finally {
      stop.abort();
      this.#dumps.delete(channel);
    }
  }

  async #fileFor(request: DumpRequest): Promise<StreamFile> {
    const { source } = this.#options;
    const files = await source.files();
    if (files.length === 0) throw nothingYet();
    const file = this.#placeIn(files, request);
    const { replicaServerId, gtids } = request;
    if (replicaServerId === this.serverId) throw ourServerId(replicaServerId);
    refuseOwnServerId(source, files.slice(files.indexOf(file)), replicaServerId, gtids);
    return file;
  }

  #placeIn(files: readonly StreamFile[], request: DumpRequest): StreamFile {
    if (request.file === '' && request.gtids !== null) return chooseFile(this.#options.source, files, request.gtids);
    if (request.position < firstEventOffset) {
      throw noSuchPlace('Client requested source to start replication from position < 4');
    }
    const file = request.file === '' ? files[0] : files.find(({ name }) => name === request.file);
    if (file === undefined) {
      throw noSuchPlace(`Could not find first log file name in binary log index file: '${request.file}'`);
    }
    return file;
  }

  /**
   * A replica that comes back is served on its new connection. The old one is dead; or it is a twin's, with a copied data
   * folder, which is told so and stops: else the two would drive each other out for ever (kill_zombie_dump_threads,
   * sql/rpl_source.cc).
   */
  #replaceTwin(replica: Replica): void {
    if (replica.uuid === '') return;
    for (const [channel, dump] of this.#dumps) {
      if (dump.replica.uuid !== replica.uuid || dump.stop.signal.aborted) continue;
      this.#note('warn', `replica ${replica.uuid} connected again; its older connection is dropped`);
      dump.stop.abort(twinned);
      setTimeout(() => channel.destroy(), twinMs).unref();
    }
  }

  #report(channel: Channel, error: unknown, user: string | null): void {
    if (this.#isClosed) return;
    const message = error instanceof Error ? error.message : String(error);
    const isClients = isKind(error, 'transient') && /^QZ470[123]$/.test(error.code);
    // Part of it may be a client's own text: nothing in it may pass for another line.
    const shown = message.slice(0, maxShownLength).replace(/\p{C}/gu, '?');
    const line = `connection of ${channel.peer} ended: ${shown}`;
    const isRefusal = isKind(error, 'integrity') && /^QZ370[4-8]$/.test(error.code);
    if (isClients || isRefusal) this.#note(isClients ? 'warn' : 'error', line);
    else this.#options.logger.error(line, { component: 'stream' });
    if (!isClients) this.#options.onFault?.(error, user);
  }

  #note(level: 'info' | 'warn' | 'error', line: string, facts: object = {}): void {
    this.#gate.pass(() => this.#options.logger.log(level, line, { component: 'stream', ...facts }));
  }
}

function sameUuid(uuid: string) {
  return integrityError(
    'QZ3712',
    `A replica with the same server_uuid/server_id as this replica has connected to the source (${uuid}).`,
    'One of the two was copied from the other: remove auto.cnf in its data folder, restart it, and start its replication.',
  );
}

function ourServerId(serverId: number) {
  return integrityError(
    'QZ3707',
    `The replica's server_id ${serverId} is the stream server's: it would take what it is sent for its own.`,
    'Give the replica a server_id of its own.',
  );
}

function noSuchPlace(sentence: string) {
  return integrityError('QZ3708', sentence, 'Ask for a file of this history, or by GTIDs (SOURCE_AUTO_POSITION = 1).');
}

/** A UUID of form 8 (RFC 9562: made by the vendor), and a server_id in the upper half that the history does not use. */
function identityOf(identity: string, taken: ReadonlySet<number>): { uuid: string; serverId: number } {
  const hash = createHash('sha256').update(`qazyna stream server\0${identity}`).digest();
  hash.writeUInt8((hash.readUInt8(6) & 0x0f) | 0x80, 6);
  hash.writeUInt8((hash.readUInt8(8) & 0x3f) | 0x80, 8);
  const hex = hash.toString('hex', 0, 16);
  const uuid = `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  let serverId = (hash.readUInt32LE(16) | 0x80000000) >>> 0;
  while (taken.has(serverId) || serverId === 0xffffffff) serverId = serverId >= 0xfffffffe ? 0x80000000 : serverId + 1;
  return { uuid, serverId };
}

function secureContextOf(certificate: CertificateAndKey): SecureContext {
  try {
    return createSecureContext({ cert: certificate.certPem, key: certificate.keyPem, minVersion: 'TLSv1.2' });
  } catch (error) {
    throw configurationError(
      'QZ2702',
      `The stream server's certificate or key cannot be used: ${(error as Error).message}.`,
      'Give a certificate and its private key as PEM, the key without a passphrase.',
      { cause: error },
    );
  }
}
