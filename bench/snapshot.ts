/**
 * Snapshots against mydumper and myloader on the same server and data, and what a further snapshot adds. The peers are
 * Debian's (they write and read gzip and call no fsync; ours is durable when it ends).
 */
import { chmod, glob, mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { takeSnapshot } from '../agent/snapshot/snapshot.ts';
import { openDirectoryStore } from '../core/archive/directory.ts';
import type { ObjectStore } from '../core/archive/store.ts';
import { silentLogger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { Mysqld, type MysqldHandle } from '../core/mysql/mysqld.ts';
import { fetchSnapshot } from '../core/restore/fetch.ts';
import { listCompleteSnapshots, readManifest } from '../core/snapshot/manifest.ts';
import { cachePath } from '../scripts/setup/cache.ts';
import { ensureTools } from '../scripts/setup/tools.ts';
import { atMost, type BenchContext, comparedTo, type Figure } from './figure.ts';
import { timed } from './peers.ts';

const tables = 4;
/** 400,000 rows are 108 MiB a table. */
const rowsPerTable = 400_000;
const takeRuns = 3;
const loadRuns = 2;
const osUser = process.getuid?.() === 0 ? 'root' : undefined;

const serverOptions = {
  'gtid-mode': true,
  'enforce-gtid-consistency': true,
  'server-id': 11,
  'innodb-buffer-pool-size': '512M',
  'innodb-flush-log-at-trx-commit': 2,
  'sync-binlog': 0,
  'plugin-load-add': 'mysql_clone.so',
};

export const name = 'snapshot';

export async function run(context: BenchContext): Promise<Figure[]> {
  await chmod(context.workDir, 0o755);
  const tools = await ensureTools(['mysqld', 'mydumper', 'myloader', 'sysbench']);
  const lab = new BenchLab(context, await Mysqld.find(tools.paths.mysqld));
  try {
    const source = await lab.start('source', null);
    const connection = await lab.connect(source);
    context.log(`filling ${tables} tables with ${rowsPerTable} rows each`);
    await connection.query('CREATE DATABASE sbtest');
    const peers = new Peers(tools.paths, context);
    await peers.fill(source);
    const dataMegabytes = Number(
      (
        await connection.query(
          "SELECT SUM(file_size) / 1e6 AS mb FROM information_schema.innodb_tablespaces WHERE name LIKE 'sbtest/%'",
        )
      )[0]?.mb,
    );
    const taken = await takes(context, lab, source, peers, dataMegabytes);
    const loaded = await loads(context, lab, peers, dataMegabytes);
    const further = await furtherOnes(context, lab, source, connection);
    return [taken, loaded, ...further];
  } finally {
    await lab.end();
  }
}

/** The first snapshot into an empty archive, against a compressed dump. */
async function takes(
  context: BenchContext,
  lab: BenchLab,
  source: MysqlEndpoint,
  peers: Peers,
  dataMegabytes: number,
): Promise<Figure> {
  const [ours, theirs]: [number[], number[]] = [[], []];
  for (let round = 0; round < takeRuns; round += 1) {
    context.log(`first snapshot and mydumper, round ${round + 1} of ${takeRuns}`);
    await rm(join(context.workDir, 'archive'), { recursive: true, force: true });
    ours.push(dataMegabytes / (await seconds(async () => void (await lab.snapshot(source)))));
    theirs.push(dataMegabytes / (await seconds(() => peers.dump(source))));
  }
  const what = `first snapshot (clone) of ${Math.round(dataMegabytes)} MB into one archive, fsync'd`;
  return comparedTo('mydumper -c -t 2', what, 'MB/s', ours, theirs, 0.5);
}

/** From the archive to a server that answers, against loading the dump into one that runs. */
async function loads(context: BenchContext, lab: BenchLab, peers: Peers, dataMegabytes: number): Promise<Figure> {
  const [ours, theirs]: [number[], number[]] = [[], []];
  for (let round = 0; round < loadRuns; round += 1) {
    context.log(`restore and myloader, round ${round + 1} of ${loadRuns}`);
    const dir = join(context.workDir, `restored-${round}`);
    const elapsed = await seconds(async () => {
      await lab.fetch(dir);
      await lab.start(`restored-${round}`, dir);
    });
    ours.push(dataMegabytes / elapsed);
    await lab.stop(`restored-${round}`);
    const target = await lab.start(`loaded-${round}`, null);
    theirs.push(dataMegabytes / (await seconds(() => peers.load(target))));
    await lab.stop(`loaded-${round}`);
  }
  const what = "restore of that snapshot: fetched, fsync'd, server started";
  return comparedTo('myloader -t 2', what, 'MB/s', ours, theirs, 2);
}

/** What goes to the archive for the next snapshot, as a share of the first one. */
async function furtherOnes(
  context: BenchContext,
  lab: BenchLab,
  source: MysqlEndpoint,
  connection: MysqlConnection,
): Promise<Figure[]> {
  await rm(join(context.workDir, 'archive'), { recursive: true, force: true });
  const first = await lab.snapshot(source);
  const share = async (change: (table: string) => string) => {
    for (let table = 1; table <= tables; table += 1) {
      await connection.query(change(`sbtest.sbtest${table}`), [], 120_000);
    }
    await settle(connection);
    return (100 * (await lab.snapshot(source))) / first;
  };
  context.log('a further snapshot after the newest 1 % of rows changed');
  const changed = await share(
    (name) => `UPDATE ${name} SET c = REVERSE(c) ORDER BY id DESC LIMIT ${rowsPerTable / 100}`,
  );
  context.log('a further snapshot after 1 % of rows were appended');
  const appended = await share(
    // k from rows that are there: spread over the index as sysbench spreads it.
    (name) => `INSERT INTO ${name} (k, c, pad) SELECT k, ${digits(10)}, ${digits(5)} FROM ${name} WHERE id % 100 = 7`,
  );
  return [
    atMost('bytes stored by a second snapshot after the newest 1 % of rows changed', '% of the first', [changed], 3),
    atMost('bytes stored by a second snapshot after 1 % of rows were appended', '% of the first', [appended], 12),
  ];
}

/** Until purge has emptied the undo logs and the pages are in the files: otherwise the clone's redo log says it again. */
async function settle(connection: MysqlConnection): Promise<void> {
  await connection.query('SET GLOBAL innodb_max_dirty_pages_pct = 0');
  for (let look = 0; look < 600; look += 1) {
    const [row] = await connection.query("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'");
    if (Number(row?.Value) < 100) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await connection.query('SET GLOBAL innodb_max_dirty_pages_pct = DEFAULT');
}

class BenchLab {
  readonly #context: BenchContext;
  readonly #mysqld: Mysqld;
  readonly #servers = new Map<string, MysqldHandle>();
  readonly #connections: MysqlConnection[] = [];

  constructor(context: BenchContext, mysqld: Mysqld) {
    this.#context = context;
    this.#mysqld = mysqld;
  }

  /** On that folder, or a new one. */
  async start(name: string, dataDir: string | null): Promise<MysqlEndpoint> {
    const { workDir, signal } = this.#context;
    const place = {
      dataDir: dataDir ?? join(workDir, name),
      errorLog: join(workDir, `${name}.err`),
      options: serverOptions,
      osUser,
      signal,
    };
    if (dataDir === null) await this.#mysqld.initialize(place);
    const socket = join(workDir, `${name}.sock`);
    this.#servers.set(name, await this.#mysqld.start({ ...place, socket, port: null }));
    return { host: 'localhost', port: 0, socketPath: socket, user: 'root', password: '' };
  }

  async stop(name: string): Promise<void> {
    await this.#servers.get(name)?.kill();
    this.#servers.delete(name);
    await rm(join(this.#context.workDir, name), { recursive: true, force: true });
  }

  async connect(endpoint: MysqlEndpoint): Promise<MysqlConnection> {
    const connection = await connectMysql(endpoint, this.#context.signal);
    this.#connections.push(connection);
    return connection;
  }

  #archive(): Promise<ObjectStore> {
    return openDirectoryStore(join(this.#context.workDir, 'archive'), { create: true });
  }

  /** Bytes put: packs and manifest. */
  async snapshot(source: MysqlEndpoint): Promise<number> {
    const { workDir, signal } = this.#context;
    const scratchDir = join(workDir, 'scratch');
    await mkdir(scratchDir, { recursive: true });
    const store = await this.#archive();
    const report = await takeSnapshot({
      engine: 'clone',
      source,
      stores: [{ name: 'archive', store }],
      sourceName: 'bench',
      timeline: { generation: 1, sourceUuid: '' },
      scratchDir,
      signal,
      logger: silentLogger(),
    });
    const [newest] = await listCompleteSnapshots(store, { source: 'bench' });
    return (report.archives[0]?.packBytesPut ?? 0) + (newest?.manifestBytes ?? 0);
  }

  async fetch(dir: string): Promise<void> {
    const store = await this.#archive();
    const [newest] = await listCompleteSnapshots(store, { source: 'bench' });
    if (newest === undefined) throw new Error('the archive holds no snapshot');
    await fetchSnapshot(store, await readManifest(store, newest.id), dir, { signal: this.#context.signal });
  }

  async end(): Promise<void> {
    for (const connection of this.#connections) await connection.close();
    for (const server of this.#servers.values()) await server.kill();
  }
}

class Peers {
  readonly #paths: Record<string, string>;
  readonly #dumpDir: string;
  readonly #signal: AbortSignal;

  constructor(paths: Record<string, string>, context: BenchContext) {
    this.#paths = paths;
    this.#dumpDir = join(context.workDir, 'dump');
    this.#signal = context.signal;
  }

  async dump(source: MysqlEndpoint): Promise<void> {
    await rm(this.#dumpDir, { recursive: true, force: true });
    await this.#run('mydumper', [...this.#login(source), '-B', 'sbtest', '-t', '2', '-c', '-o', this.#dumpDir]);
    if ((await stat(join(this.#dumpDir, 'metadata'))).size === 0) throw new Error('mydumper made no dump');
  }

  #login(endpoint: MysqlEndpoint): string[] {
    return ['-u', 'root', '-S', endpoint.socketPath ?? '', '-v', '1'];
  }

  async load(target: MysqlEndpoint): Promise<void> {
    await this.#run('myloader', [...this.#login(target), '-t', '2', '-d', this.#dumpDir]);
  }

  /** sysbench's own tables: how its values are spread decides how many pages an insert touches. */
  async fill(source: MysqlEndpoint): Promise<void> {
    const options = ['--db-driver=mysql', `--mysql-socket=${source.socketPath}`, '--mysql-user=root'];
    const sizes = [`--tables=${tables}`, `--table-size=${rowsPerTable}`, `--threads=${tables}`];
    let cwd = '.'; // a fetched sysbench finds its scripts in the folder it runs in, an installed one by itself
    for await (const folder of glob(cachePath('packages/sysbench-*/prefix/usr/share/sysbench'))) cwd = folder;
    await this.#run('sysbench', ['oltp_read_write', ...options, '--mysql-db=sbtest', ...sizes, 'prepare'], cwd);
  }

  async #run(name: string, args: readonly string[], cwd = '.'): Promise<void> {
    // Debian's build speaks through MariaDB's client library, which looks for its plugins in a fixed place.
    const env = { ...process.env };
    const plugins = glob(cachePath('packages/mydumper-*/prefix/usr/lib/*/libmariadb3/plugin'));
    for await (const folder of plugins) env.MARIADB_PLUGIN_DIR ??= folder;
    await timed(this.#paths[name] ?? name, args, { cwd, env, signal: this.#signal });
  }
}

/** An SQL expression for what sysbench puts into c and pad: groups of eleven random digits. */
function digits(groups: number): string {
  const group = "LPAD(FLOOR(RAND() * 1e11), 11, '0')";
  return `CONCAT_WS('-', ${Array.from({ length: groups }, () => group).join(', ')})`;
}

async function seconds(work: () => Promise<void>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return (performance.now() - startedMs) / 1000;
}
