/**
 * What it costs a source to lose nothing: commits a second when each waits until another one has it. Against a local log the
 * peer is a stock semi-sync replica that syncs its relay log (sync_relay_log=1) and applies nothing: equal durability, equal
 * work. With three brokers the bound is what the log itself allows: one append after the other, each shared by all clients.
 * What the server does when nothing waits is shown beside. Rounds of ours and the peer's follow each other on the same source.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { readSemiSyncStatus, setSemiSync } from '../agent/semi-sync/settings.ts';
import { connectMysql, type MysqlConnection } from '../core/mysql/connection.ts';
import { Mysqld, type MysqldHandle, type MysqldOptions } from '../core/mysql/mysqld.ts';
import { KafkaLab } from '../test/lab/kafka.ts';
import { type BenchContext, beside, comparedTo, type Figure, median } from './figure.ts';
import type { LoadOutcome } from './load-child.ts';
import { CompiledChild } from './peers.ts';
import type { AcknowledgingOutcome } from './rpo0-child.ts';

export const name = 'rpo0';

const clients = 16;
const rounds = 5;
const kafkaRounds = 3;
const roundSeconds = 4;
const brokers = 3;
const readyWithinMs = 30_000;
const options: MysqldOptions = {
  'gtid-mode': true,
  'enforce-gtid-consistency': true,
  'innodb-buffer-pool-size': '256M',
  'sync-binlog': 1,
  'innodb-flush-log-at-trx-commit': 1,
  // As in bench/overhead.ts: without, commits now and then wait 100 ms for InnoDB alone.
  'innodb-log-writer-threads': true,
  mysqlx: false,
};

export async function run(context: BenchContext): Promise<Figure[]> {
  const bench = new RpoBench(context, await Mysqld.find());
  try {
    return await bench.run();
  } finally {
    await bench.close();
  }
}

interface Server {
  handle: MysqldHandle;
  connection: MysqlConnection;
}

class RpoBench {
  readonly #context: BenchContext;
  readonly #mysqld: Mysqld;
  readonly #load: CompiledChild;
  readonly #child: string;
  readonly #running: Server[] = [];
  #agents = 0;

  constructor(context: BenchContext, mysqld: Mysqld) {
    this.#context = context;
    this.#mysqld = mysqld;
    this.#load = new CompiledChild(join(import.meta.dirname, 'load-child.ts'), context.workDir, context.signal);
    this.#child = join(import.meta.dirname, 'rpo0-child.ts');
  }

  async run(): Promise<Figure[]> {
    const { log, workDir, signal } = this.#context;
    const source = await this.#start('source', { 'server-id': 1, 'log-bin': 'binlog' });
    await source.connection.query('CREATE DATABASE load_test');
    await source.connection.query(
      'CREATE TABLE load_test.account (id INT PRIMARY KEY, balance INT NOT NULL, note VARCHAR(160))',
    );
    const replica = await this.#stockReplica(source);
    await this.#load.warm();
    const free: number[] = [];
    for (let round = 0; round < kafkaRounds; round++) free.push(await this.#unacknowledged(source));
    log(`nothing waits: ${Math.round(median(free))} commits/s`);
    await setSemiSync(source.connection, { persist: false });
    const [ours, theirs]: [number[], number[]] = [[], []];
    for (let round = 0; round < rounds; round++) {
      const { rate, outcome } = await this.#acknowledged(source, clients, '');
      ours.push(rate);
      theirs.push(await this.#byReplica(source, replica));
      const each = `one append ${outcome.appendP50Ms.toFixed(2)} ms`;
      log(
        `acknowledged by us ${Math.round(rate)} (${each}), by a stock replica ${Math.round(theirs.at(-1) ?? 0)} commits/s`,
      );
    }
    await using kafka = await KafkaLab.start({ brokers, dir: join(workDir, 'kafka'), signal });
    const [rates, bounds]: [number[], number[]] = [[], []];
    for (let round = 0; round < kafkaRounds; round++) {
      const alone = await this.#acknowledged(source, 1, kafka.bootstrap.join(','));
      const { rate, outcome } = await this.#acknowledged(source, clients, kafka.bootstrap.join(','));
      rates.push(rate);
      bounds.push((clients * 1000) / alone.outcome.appendP50Ms);
      log(
        `acknowledged once ${brokers} brokers have it: ${Math.round(rate)} commits/s; one append ` +
          `${alone.outcome.appendP50Ms.toFixed(2)} ms with one client, ${outcome.appendP50Ms.toFixed(2)} ms with ${clients}`,
      );
    }
    const what = `commits/s, ${clients} clients, each commit waits`;
    return [
      comparedTo(
        'stock semi-sync replica, sync_relay_log=1',
        `${what} for a local fsync`,
        'commits/s',
        ours,
        theirs,
        0.8,
      ),
      beside('the same server, nothing waits', `${what} for ${brokers} brokers, acks=all`, 'commits/s', rates, free),
      comparedTo(
        `${clients} / p50 of one append`,
        `${what} for ${brokers} brokers, acks=all`,
        'commits/s',
        rates,
        bounds,
        1,
      ),
    ];
  }

  /** Commits a second while an agent of ours acknowledges. */
  async #acknowledged(source: Server, count: number, topic: string) {
    const { workDir, signal } = this.#context;
    const dir = join(workDir, `agent-${++this.#agents}`);
    await mkdir(dir);
    // An agent begins with the present file: it must not catch up while it is measured.
    await source.connection.query('FLUSH BINARY LOGS');
    const args = [...process.execArgv, this.#child, String(source.handle.port), dir, ...(topic === '' ? [] : [topic])];
    const agent = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'], signal });
    const output = collect(agent);
    try {
      await output.until('attached');
      await this.#untilClients(source, 1);
      const rate = await this.#rate(source, count);
      const ended = once(agent, 'exit');
      agent.kill('SIGTERM');
      await ended;
      return { rate, outcome: JSON.parse(output.text.split('\n').at(-2) ?? '') as AcknowledgingOutcome };
    } finally {
      agent.kill('SIGKILL');
      await this.#untilClients(source, 0);
    }
  }

  async #byReplica(source: Server, replica: Server): Promise<number> {
    // As if it had all of it: what we acknowledged meanwhile would first have to be fetched, while every commit waits.
    const [row] = await source.connection.query('SELECT @@GLOBAL.gtid_executed AS gtids');
    await replica.connection.query('RESET REPLICA');
    await replica.connection.query('RESET BINARY LOGS AND GTIDS');
    await replica.connection.query('SET GLOBAL gtid_purged = ?', [String(row?.gtids)]);
    await replica.connection.query('START REPLICA IO_THREAD');
    await this.#untilClients(source, 1);
    const rate = await this.#rate(source, clients);
    await replica.connection.query('STOP REPLICA IO_THREAD');
    // The source would notice at its next heartbeat only, half a minute later.
    const dumps = await source.connection.query(
      "SELECT processlist_id AS id FROM performance_schema.threads WHERE processlist_command LIKE 'Binlog Dump%'",
    );
    for (const { id } of dumps) await source.connection.query('KILL ?', [Number(id)]);
    await this.#untilClients(source, 0);
    return rate;
  }

  async #unacknowledged({ handle }: Server): Promise<number> {
    const outcome = await this.#runLoad(handle, clients);
    return outcome.commits / outcome.seconds;
  }

  async #runLoad({ socket }: MysqldHandle, count: number): Promise<LoadOutcome> {
    const args = [socket, count, 0, roundSeconds].map(String);
    return JSON.parse((await this.#load.run(args, this.#context.workDir)).stdout) as LoadOutcome;
  }

  async #rate(source: Server, count: number): Promise<number> {
    const before = await readSemiSyncStatus(source.connection);
    const outcome = await this.#runLoad(source.handle, count);
    const after = await readSemiSyncStatus(source.connection);
    if (!after.isOn || after.unacknowledged !== before.unacknowledged)
      throw new Error('commits returned without an acknowledgement: nothing was measured');
    return outcome.commits / outcome.seconds;
  }

  async #untilClients(source: Server, wanted: number): Promise<void> {
    const untilMs = performance.now() + readyWithinMs;
    for (; ; await sleep(50, undefined, { signal: this.#context.signal })) {
      if ((await readSemiSyncStatus(source.connection)).clients === wanted) return;
      if (performance.now() > untilMs) throw new Error(`the source does not have ${wanted} semi-sync replicas`);
    }
  }

  /** A replica that receives and acknowledges, durably, and never applies. */
  async #stockReplica(source: Server): Promise<Server> {
    await source.connection.query("CREATE USER 'repl'@'%' IDENTIFIED BY 'repl' REQUIRE NONE");
    await source.connection.query("GRANT REPLICATION SLAVE ON *.* TO 'repl'@'%'");
    const replica = await this.#start('replica', {
      'server-id': 2,
      'disable-log-bin': true,
      'sync-relay-log': 1,
      'relay-log': 'relay',
      'skip-replica-start': true,
    });
    await replica.connection.query("INSTALL PLUGIN rpl_semi_sync_replica SONAME 'semisync_replica.so'");
    await replica.connection.query('SET GLOBAL rpl_semi_sync_replica_enabled = ON');
    await replica.connection.query(
      `CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = ${source.handle.port}, SOURCE_USER = 'repl',
       SOURCE_PASSWORD = 'repl', SOURCE_SSL = 1, SOURCE_AUTO_POSITION = 1, SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 1000`,
    );
    return replica;
  }

  async #start(place: string, more: MysqldOptions): Promise<Server> {
    const { workDir, signal } = this.#context;
    const dataDir = join(workDir, place);
    const all = { dataDir, errorLog: `${dataDir}.err`, options: { ...options, ...more }, signal };
    await this.#mysqld.initialize(all);
    const handle = await this.#mysqld.start({ ...all, socket: `${dataDir}.sock`, port: 'free' });
    const login = { host: 'localhost', port: 0, socketPath: handle.socket, user: 'root', password: '' };
    const server = { handle, connection: await connectMysql(login, signal) };
    this.#running.push(server);
    return server;
  }

  async close(): Promise<void> {
    for (const { handle, connection } of this.#running) {
      await connection.close();
      await handle.kill();
    }
  }
}

/** What a child has printed so far. */
function collect(child: ChildProcess) {
  const output = {
    text: '',
    until: async (wanted: string) => {
      const untilMs = performance.now() + readyWithinMs;
      while (!output.text.includes(wanted)) {
        if (child.exitCode !== null || performance.now() > untilMs) throw new Error(`the agent never said ${wanted}`);
        await sleep(20);
      }
    },
  };
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    output.text += text;
  });
  return output;
}
