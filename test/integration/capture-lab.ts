/** A mysqld that can be stopped, killed and started again on its data, and a capture of it whose entries are folded. */
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { type CaptureOptions, captureEntries } from '../../agent/capture/capture.ts';
import type { CapturedEntry, ResumePoint } from '../../agent/capture/types.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { fold } from '../../core/chain/fold.ts';
import type { BinlogRange, ChainState, Entry } from '../../core/chain/types.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { Mysqld, type MysqldHandle, type MysqldOptions } from '../../core/mysql/mysqld.ts';
import { makeEmptyData } from '../lab/empty-data.ts';
import { labPort } from '../lab/ports.ts';

const defaults: MysqldOptions = {
  'log-bin': 'binlog',
  'server-id': 21,
  'gtid-mode': true,
  'enforce-gtid-consistency': true,
  'innodb-buffer-pool-size': '64M',
  'innodb-redo-log-capacity': '64M',
  'innodb-flush-log-at-trx-commit': 2,
  'sync-binlog': 0,
  'cte-max-recursion-depth': 1_000_000,
  mysqlx: false,
};
const osUser = process.getuid?.() === 0 ? 'root' : undefined;
const noSignal = new AbortController().signal;
const magic = Buffer.from([0xfe, 0x62, 0x69, 0x6e]);

export class CaptureLab implements AsyncDisposable {
  readonly dir: string;
  readonly #mysqld: Mysqld;
  readonly #port: number;
  #options: MysqldOptions;
  #server: MysqldHandle | null = null;
  #admin: MysqlConnection | null = null;

  private constructor(dir: string, mysqld: Mysqld, port: number, options: MysqldOptions) {
    this.dir = dir;
    this.#mysqld = mysqld;
    this.#port = port;
    this.#options = options;
  }

  static async start(more: MysqldOptions = {}): Promise<CaptureLab> {
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-capture-'));
    const lab = new CaptureLab(dir, await Mysqld.find(), await labPort(), { ...defaults, ...more });
    await makeEmptyData(lab.#mysqld, lab.dataDir);
    await lab.up();
    return lab;
  }

  get dataDir(): string {
    return join(this.dir, 'data');
  }

  /** Over TCP, where TLS and passwords matter; root has no password. */
  get endpoint(): MysqlEndpoint {
    return { host: '127.0.0.1', port: this.#port, user: 'root', password: '', tls: { mode: 'disabled' } };
  }

  static connect(lab: CaptureLab): Promise<MysqlConnection> {
    return connectMysql(lab.endpoint, noSignal);
  }

  /** Options that the next start leaves out: what the server persisted then shows. */
  forget(...names: string[]): void {
    this.#options = Object.fromEntries(Object.entries(this.#options).filter(([name]) => !names.includes(name)));
  }

  async up(more: MysqldOptions = {}): Promise<void> {
    this.#options = { ...this.#options, ...more };
    this.#server = await this.#mysqld.start({
      dataDir: this.dataDir,
      socket: join(this.dir, 's.sock'),
      port: this.#port,
      errorLog: join(this.dir, 'log'),
      osUser,
      options: this.#options,
    });
  }

  async down(how: 'stop' | 'kill'): Promise<void> {
    await this.#admin?.close();
    this.#admin = null;
    await (how === 'kill' ? this.#server?.kill() : this.#server?.stop());
    this.#server = null;
  }

  async sql(...statements: string[]) {
    this.#admin ??= await connectMysql({ ...this.endpoint, socketPath: join(this.dir, 's.sock') }, noSignal);
    let rows: Record<string, unknown>[] = [];
    for (const statement of statements) rows = await this.#admin.query(statement, [], 120_000);
    return rows;
  }

  async gtidExecuted(): Promise<GtidSet> {
    const [row] = await this.sql('SELECT @@global.gtid_executed AS gtids');
    return GtidSet.parse(String(row?.gtids ?? ''));
  }

  /** Waits until the server has noticed that its replicas closed their connections: it does at their next heartbeat. */
  async withoutReplicas(): Promise<void> {
    while ((await this.sql('SHOW REPLICAS')).length > 0) await sleep(50);
  }

  /** File name → SHA-256 of the server's own files, as they are once closed (in-use flag cleared). */
  async ownFiles(): Promise<Map<string, string>> {
    const names = (await readdir(this.dataDir)).filter((name) => /^binlog\.\d+$/.test(name)).sort();
    const sums = new Map<string, string>();
    for (const name of names) {
      const bytes = await readFile(join(this.dataDir, name));
      bytes.writeUInt8(bytes.readUInt8(21) & 0xfe, 21);
      sums.set(name, createHash('sha256').update(bytes).digest('hex'));
    }
    return sums;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down('kill');
    await rm(this.dir, { recursive: true, force: true });
  }
}

export const chainId = '00112233445566778899aabbccddeeff';

/** What was captured: entries that went through the chain's fold, where a hole or an overlap throws. */
export class Captured {
  readonly entries: CapturedEntry[] = [];
  state: ChainState | null = null;

  get resume(): ResumePoint | null {
    const { state } = this;
    if (!state?.range) return null;
    return {
      sourceUuid: state.sourceUuid,
      range: state.range,
      gtids: state.gtids,
      prefixCrc: this.#prefixCrc(state.range),
    };
  }

  /** From the recorded bodies, as the agent does it from the log. */
  #prefixCrc({ file, boundary, end }: BinlogRange): number | null {
    if (boundary === end) return null;
    let crc = 0;
    for (const entry of this.entries) {
      if (entry.kind !== 'events' || entry.file !== file || entry.end <= boundary) continue;
      crc = crc32(entry.body.subarray(Math.max(0, boundary - entry.start)), crc);
    }
    return crc;
  }

  add(item: CapturedEntry): void {
    if (this.state === null) this.#claim(item.sourceUuid);
    this.#accept(item);
    this.entries.push(item);
  }

  /** The first `count` entries only. */
  upTo(count: number): Captured {
    const shorter = new Captured();
    for (const entry of this.entries.slice(0, count)) shorter.add(entry);
    return shorter;
  }

  /** The captured files: name → SHA-256 of magic and bodies. */
  files(): Map<string, string> {
    const hashes = new Map<string, ReturnType<typeof createHash>>();
    for (const entry of this.entries) {
      if (entry.kind !== 'events') continue;
      const hash = hashes.get(entry.file) ?? createHash('sha256').update(magic);
      hashes.set(entry.file, hash.update(entry.body));
    }
    return new Map([...hashes].map(([name, hash]) => [name, hash.digest('hex')]));
  }

  #claim(sourceUuid: string): void {
    const nothing = { start: 0, end: 0, boundary: 0, transactionStart: 0, fileHeadSha256: Buffer.alloc(32) };
    const times = { firstCommitMicros: 0, lastCommitMicros: 0, completeThroughMicros: 0 };
    const rest = { gtidsAdded: new GtidSet(), gtidsBefore: null, semiSync: false, note: '', body: Buffer.alloc(0) };
    this.#accept({ kind: 'claim', sourceUuid, file: '', ...nothing, ...times, ...rest });
  }

  #accept(item: CapturedEntry): void {
    const number = this.state?.next ?? 0;
    const entry: Entry = { ...item, chainId, generation: 1, writer: 'ff'.repeat(16), number };
    this.state = fold(this.state, { landed: number, entry });
  }
}

/** A capture that runs until stopped. */
export class Recording extends Captured {
  readonly troubles: string[] = [];
  connected = 0;
  failure: unknown = null;
  /** Entries are not accepted by the log, as while its brokers are away; null: they are, at once. */
  #unaccepted: (() => void)[] | null = null;
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;

  constructor(lab: CaptureLab, more: Partial<CaptureOptions> = {}, before: Captured | null = null) {
    super();
    for (const entry of before?.entries ?? []) this.add(entry);
    this.#done = this.#run({
      endpoint: lab.endpoint,
      chainId,
      resume: this.resume,
      start: 'oldest',
      logger: silentLogger(),
      onConnection: (trouble) => {
        if (trouble) this.troubles.push(trouble.code);
        else this.connected++;
      },
      ...more,
    });
  }

  async #run(options: CaptureOptions): Promise<void> {
    try {
      for await (const { items, accepted } of captureEntries(options, this.#stop.signal)) {
        for (const item of items) this.add(item);
        if (this.#unaccepted === null) accepted();
        else this.#unaccepted.push(accepted);
      }
    } catch (error) {
      this.failure = error;
    }
  }

  /** From now on nothing is accepted. */
  hold(): void {
    this.#unaccepted ??= [];
  }

  /** All that came meanwhile, and what comes. */
  accept(): void {
    for (const accepted of this.#unaccepted ?? []) accepted();
    this.#unaccepted = null;
  }

  async until(what: string, holds: () => boolean | Promise<boolean>, deadlineMs = 30_000): Promise<void> {
    const endMs = Date.now() + deadlineMs;
    while (!(await holds())) {
      if (this.failure !== null) throw this.failure;
      const { file, end } = this.state?.range ?? {};
      if (Date.now() > endMs) throw new Error(`not in time: ${what}; at ${file}:${end}, troubles ${this.troubles}`);
      await sleep(20);
    }
  }

  /** Until everything the server has executed now is captured. */
  async caughtUp(lab: CaptureLab): Promise<void> {
    const wanted = await lab.gtidExecuted();
    await this.until(`capture of ${wanted}`, () => this.state?.gtids.containsAll(wanted) === true);
  }

  /** Until capture ends by itself; the error it ended with. */
  async failed(deadlineMs = 30_000): Promise<unknown> {
    const late = sleep(deadlineMs, 'late', { ref: false });
    if ((await Promise.race([this.#done, late])) === 'late') throw new Error('capture did not fail in time');
    return this.failure;
  }

  async stop(): Promise<void> {
    this.#stop.abort(new Error('the test stops it'));
    await this.#done;
    if (this.failure !== null) throw this.failure;
  }
}
