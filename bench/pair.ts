/** A pair of hosts under load, for the benches of failover and switchover: two `qazyna standby`, a topic, a shipper, clients. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { setSemiSync } from '../agent/semi-sync/settings.ts';
import { connectMysql, type MysqlConnection } from '../core/mysql/connection.ts';
import { Lab } from '../test/lab/lab.ts';
import { StandbyHost } from '../test/lab/pair.ts';

const qazyna = fileURLToPath(new URL('../bin/qazyna', import.meta.url));
const clients = 4;
const clientPauseMs = 2;

export class PairUnderLoad implements AsyncDisposable {
  readonly lab: Lab;
  primary: StandbyHost;
  standby: StandbyHost;
  readonly #shipper: ChildProcess;
  readonly #signal: AbortSignal;

  private constructor(
    lab: Lab,
    primary: StandbyHost,
    standby: StandbyHost,
    shipper: ChildProcess,
    signal: AbortSignal,
  ) {
    this.lab = lab;
    this.primary = primary;
    this.standby = standby;
    this.#shipper = shipper;
    this.#signal = signal;
  }

  /** Both hosts made from the lab's own server, which is then gone: `one` is the primary, `two` follows. */
  static async open(workDir: string, failover: string, signal: AbortSignal): Promise<PairUnderLoad> {
    const lab = await Lab.start({ dir: join(workDir, 'lab'), kafka: 1, signal });
    const text = await readFile(lab.configFile, 'utf8');
    await writeFile(lab.configFile, text.replace('  name: agama\n', '  name: agama\n  acknowledge_after: log\n'));
    const source = await connectMysql(lab.mysql.root, signal);
    await source.query('CREATE DATABASE load_test');
    await source.query('CREATE TABLE load_test.told (id BIGINT PRIMARY KEY, note VARCHAR(64))');
    await source.query("GRANT SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN ON *.* TO 'qazyna'@'%'");
    await setSemiSync(source, { persist: false });
    await source.close();
    const agent = start(['agent'], lab.configFile);
    const shipper = start(['shipper', '--listen', '127.0.0.1:0'], lab.configFile);
    const one = await StandbyHost.create(lab, { name: 'one', failover });
    const two = await StandbyHost.create(lab, { name: 'two', failover, primaryPort: one.port });
    // Each looks at the other one.
    const own = await readFile(one.configFile, 'utf8');
    one.start();
    await one.untilFollowing();
    await lab.mysql.handle?.kill();
    await promote(one, signal);
    agent.kill('SIGKILL');
    await writeFile(one.configFile, own.replace(`port: ${lab.mysql.port}`, `port: ${two.port}`));
    await one.end('SIGTERM');
    one.start();
    two.start();
    await one.until('the primary', ({ standby, rpoZero }) => standby?.isWritable === true && rpoZero);
    await two.untilFollowing();
    return new PairUnderLoad(lab, one, two, shipper, signal);
  }

  /** What was the standby is the primary now. */
  exchange(): void {
    [this.primary, this.standby] = [this.standby, this.primary];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.primary.destroy();
    await this.standby.destroy();
    const ended = once(this.#shipper, 'exit');
    if (this.#shipper.exitCode === null && this.#shipper.kill('SIGTERM')) await ended;
    await this.lab.stop();
  }

  load(firstId: number): Clients {
    return new Clients(this, firstId, this.#signal);
  }
}

/** By the control socket, as the verb does it. */
async function promote(host: StandbyHost, signal: AbortSignal): Promise<void> {
  const { askStandby } = await import('../standby/control.ts');
  const onStep = () => undefined;
  await askStandby(host.dir, 'promote', { oldPrimaryIsOff: true }, { onStep, signal });
}

function start(verb: readonly string[], configFile: string): ChildProcess {
  const args = [...verb, '--config', configFile, '--log-level', 'error'];
  return spawn(qazyna, args, { stdio: ['ignore', 'ignore', 'inherit'] });
}

/** Clients as applications are: each inserts, and goes to the other host when its connection breaks. */
export class Clients {
  /** Ids whose commit a client was told of, and when (ms, performance.now). */
  readonly told: { id: number; atMs: number }[] = [];
  readonly #pair: PairUnderLoad;
  readonly #signal: AbortSignal;
  readonly #running: Promise<unknown>;
  #next: number;
  #isOver = false;

  constructor(pair: PairUnderLoad, firstId: number, signal: AbortSignal) {
    this.#pair = pair;
    this.#next = firstId;
    this.#signal = signal;
    this.#running = Promise.all(Array.from({ length: clients }, () => this.#client()));
  }

  get nextId(): number {
    return this.#next;
  }

  /** Resolves once `count` more commits were told. */
  async more(count: number): Promise<void> {
    const wanted = this.told.length + count;
    while (this.told.length < wanted) await sleep(5, undefined, { signal: this.#signal });
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#running;
  }

  /** The longest time, ms, without a commit from `fromMs` on. */
  outageMs(fromMs: number): number {
    let last = fromMs;
    let longest = 0;
    for (const { atMs } of this.told) {
      if (atMs < fromMs) continue;
      longest = Math.max(longest, atMs - last);
      last = atMs;
    }
    return longest;
  }

  async missingFrom(connection: MysqlConnection): Promise<number[]> {
    const rows = new Set(
      (await connection.query('SELECT id FROM load_test.told', [], 60_000)).map(({ id }) => Number(id)),
    );
    return this.told.map(({ id }) => id).filter((id) => !rows.has(id));
  }

  async #client(): Promise<void> {
    const hosts = [this.#pair.primary, this.#pair.standby];
    for (let turn = 0; !this.#isOver; turn++) {
      const host = hosts[turn % hosts.length];
      if (host === undefined) return;
      const endpoint = { ...host.endpoint(this.#pair.lab.mysql.app), connectTimeoutMs: 500 };
      const connection = await connectMysql(endpoint, this.#signal).catch(() => null);
      try {
        while (connection !== null && !this.#isOver) {
          const id = this.#next++;
          await connection.query('INSERT INTO load_test.told VALUES (?, ?)', [id, 'committed'], 5000);
          this.told.push({ id, atMs: performance.now() });
          await sleep(clientPauseMs);
        }
      } catch {
        // Its server is gone, read-only or fenced: the other one is next.
      } finally {
        await connection?.close().catch(() => undefined);
      }
      await sleep(20);
    }
  }
}
